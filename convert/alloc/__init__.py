"""Which type every tensor gets when there is a budget: predicted KL divergence against bytes."""

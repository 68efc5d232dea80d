"""What a text tells about the weights: moments of inputs, gradients of outputs."""

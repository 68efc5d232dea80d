"""Which type every tensor gets: llama-quantize's presets, the user's own rules, the plan."""

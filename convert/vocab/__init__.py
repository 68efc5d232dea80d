"""The tokenizer.* keys of a GGUF file from the tokenizer files of a model directory."""

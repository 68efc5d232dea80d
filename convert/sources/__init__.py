"""What a conversion reads: model directories, GGUF files, hub ids, as tensors in GGUF's layout."""

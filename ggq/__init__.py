"""ggq: the GGUF toolkit in pure Python."""

"""ggq.convert: make a GGUF file from a model directory, a hub id or another GGUF."""

if __name__ != "ggq.convert":
    raise ImportError(f"import this package as ggq.convert, not {__name__}")

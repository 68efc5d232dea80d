"""ggq.runtime: run a GGUF file."""

if __name__ != "ggq.runtime":
    raise ImportError(f"import this package as ggq.runtime, not {__name__}")

"""ggq-export: a GGUF file as a Hugging Face model directory."""

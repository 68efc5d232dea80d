"""Measuring a file against the model it was made from: perplexity, divergence, agreement."""

from ggq.convert.eval.chunks import Chunks, chunks_of
from ggq.convert.eval.divergences import Divergences
from ggq.convert.eval.evaluate import evaluate

__all__ = ["Chunks", "Divergences", "chunks_of", "evaluate"]

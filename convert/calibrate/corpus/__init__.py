"""The text of calibration: what ships with ggq, or files of the user, cut into sequences."""

from ggq.convert.calibrate.corpus.documents import (
    SHARES,
    Document,
    documents,
    read_files,
    text_hash,
)
from ggq.convert.calibrate.corpus.sampling import domains_of, sample

__all__ = [
    "SHARES",
    "Document",
    "documents",
    "domains_of",
    "read_files",
    "sample",
    "text_hash",
]

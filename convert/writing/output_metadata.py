"""The metadata of a quantized file: the source's, with what llama-quantize adds at its end.

Facts: llama.cpp src/llama-quant.cpp `llama_model_quantize_impl` and tools/quantize/quantize.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable

from ggq.convert.imatrix import Imatrix
from ggq.convert.mixtures.model_facts import order_key
from ggq.convert.mixtures.presets import Preset, guessed_file_type
from ggq.metadata import Metadata
from ggq.shards import without_split
from ggq.spec import TensorInfo, ValueType

FILE_TYPE = "general.file_type"
QUANTIZATION_VERSION = "general.quantization_version"
CURRENT_QUANTIZATION_VERSION = 2
IMATRIX_FILE = "quantize.imatrix.file"
IMATRIX_DATASET = "quantize.imatrix.dataset"
IMATRIX_ENTRIES = "quantize.imatrix.entries_count"
IMATRIX_CHUNKS = "quantize.imatrix.chunks_count"
MAX_TEXT_BYTES = 127  # llama-quantize passes these texts through a field of 128 bytes


def output_metadata(
    metadata: Metadata,
    preset: Preset,
    tensors: Iterable[TensorInfo],
    imatrix: Imatrix | None = None,
) -> Metadata:
    """Metadata of the output for a source with `metadata` and `tensors`.

    Order: the source's pairs without split.*, then version, file type and imatrix keys, each taken
    out of its old place. Only the preset COPY looks at `tensors`.
    """
    output = without_split(metadata)
    file_type = preset.file_type
    if preset.copies:
        types = [tensor.type for tensor in sorted(tensors, key=lambda t: order_key(t.name))]
        file_type = output.get_int(FILE_TYPE, guessed_file_type(types))
    _append(output, QUANTIZATION_VERSION, CURRENT_QUANTIZATION_VERSION, ValueType.U32)
    _append(output, FILE_TYPE, file_type, ValueType.U32)
    if imatrix is None:
        return output
    _append(output, IMATRIX_FILE, _cut(imatrix.path), ValueType.STRING)
    if imatrix.datasets:
        _append(output, IMATRIX_DATASET, _cut(imatrix.datasets[0]), ValueType.STRING)
    _append(output, IMATRIX_ENTRIES, len(imatrix.values), ValueType.U32)
    if imatrix.chunk_count > 0:
        _append(output, IMATRIX_CHUNKS, imatrix.chunk_count, ValueType.U32)
    return output


def _append(metadata: Metadata, key: str, value: int | str | bytes, type: ValueType) -> None:
    if key in metadata:
        metadata.pop(key)
    metadata.set(key, value, type)


def _cut(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")[:MAX_TEXT_BYTES]

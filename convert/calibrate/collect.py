"""One pass over a text, layer by layer; then one back, for the gradients.

Forward: the activations of all sequences lie in a file; a layer is read, all sequences go through
it, its statistics are written, the next layer begins. Backward: the same from the head to the first
layer, each made again from what entered it, with a next token drawn from the model's own
distribution at every position (the Fisher information; Kunstner et al. 2019, arXiv:1905.12558).

Memory, in bytes: 4 times the weights of the largest section (a layer, or the output matrix), plus
4 times the sum of C^2 over its sites going forward and of C^2 + 2048 R over its matrices going
back, plus the gradients kept, 4 * sampled tokens * (C + R) of each, plus what a batch makes: about
1 GB, less for small models, or a sequence, or three times 128 MB of logits. A layer of a 70B Llama
with 2048 sampled tokens: 3.4 + 4.9 + 0.7 + 1.1 + 1 GB. On the disk: what `disk_bytes` says, the
moments and kept gradients of all layers, and 4 * tokens * D for every layer while gradients are to
be taken.

A process that is killed continues with the section it was at.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ggq.atomic import check_space
from ggq.convert.calibrate.calibration import FORMAT, INDEX, Calibration, Index, Matrix
from ggq.convert.calibrate.operations import GATES, GATES_OF_LLAMA, Gated, gelu_in_halves
from ggq.convert.calibrate.passes import SAMPLE_BYTES, Passes, Progress
from ggq.convert.calibrate.program import Program, record
from ggq.convert.calibrate.sums import OUTPUT_ROWS
from ggq.convert.calibrate.weights import Weights
from ggq.convert.sources.tensor_source import Source
from ggq.errors import UsageError
from ggq.runtime.arch import by_name, check_tensors

Tokens = npt.NDArray[np.int32]


def collect(
    source: Source, tokens: Tokens, workdir: str | os.PathLike[str], *, gradients: bool = True,
    sample_tokens: int = 2048, as_llama: bool = False, progress: Progress | None = None,
) -> Calibration:  # fmt: skip
    """Fill `workdir` with the statistics of a model on `tokens` i32 [sequences, positions].

    What is there already of the same model, text and options is kept; anything else of an older
    calibration is removed. With `gradients`, those of `sample_tokens` tokens are kept one by one
    (fewer for matrices of many rows). `as_llama`: activations are rounded where llama.cpp rounds
    them, so that an importance matrix equals llama-imatrix'. `progress` gets the share done, 0 to
    1. Matrix products run on as many threads as numpy's BLAS uses.
    Raises UsageError for tokens that cannot be, UnsupportedModelError, FormatError, DiskFullError.
    """
    weights = Weights(source)
    arch = by_name(weights.metadata.require("general.architecture", str))
    h = arch.hparams(weights.metadata)
    check_tensors(arch.tensors(h), weights.shapes)
    _check_tokens(tokens, h.n_vocab)
    gates = GATES_OF_LLAMA if as_llama else GATES
    program = record(arch, h, weights.shapes, weights.read, tokens.shape[1], gates)
    folder = Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    index = _index(program, weights, tokens, gradients, sample_tokens)
    if Index.read(folder) != index:
        for old in (*folder.glob("*.npz"), *folder.glob("*.f32"), folder / INDEX):
            old.unlink(missing_ok=True)
        index.write(folder)
    there = sum(file.stat().st_size for file in folder.iterdir())
    check_space(folder, disk_bytes(index, h.n_embd, sample_tokens) - there)
    Passes(program, weights, tokens, folder, sample_tokens, progress).run(gradients)
    return Calibration(folder)


def disk_bytes(index: Index, n_embd: int, sample_tokens: int) -> int:
    """Bytes the work folder of a calibration takes, about; `n_embd` columns go between layers."""
    tokens = index.sequences * index.context
    total = 4 * tokens * n_embd * (len(index.sections) + 2 if index.gradients else 2)
    for name, matrix in index.matrices.items():
        # Of a stack also the mean of its experts; each of a stack sees some of the tokens.
        matrices = matrix.experts + 1 if matrix.experts else 1
        moments = 4 * matrix.columns**2 * matrices
        is_site = matrix.site == name
        total += moments * (is_site + index.gradients)
        if index.gradients and matrix.section + 1 < len(index.sections):
            total += 4 * matrix.rows * min(matrix.rows, OUTPUT_ROWS) * matrices
        if index.gradients:
            kept = min(SAMPLE_BYTES, 4 * matrix.rows * sample_tokens)
            total += kept + 4 * matrix.columns * sample_tokens * is_site
    return total


def _check_tokens(tokens: Tokens, n_vocab: int) -> None:
    if tokens.ndim != 2 or not len(tokens) or tokens.shape[1] < 2:
        raise UsageError(
            f"calibration wants tokens [sequences, positions] with 2 positions or more, not"
            f" {list(tokens.shape)}"
        )
    if tokens.min() < 0 or tokens.max() >= n_vocab:
        raise UsageError(
            f"calibration tokens are {tokens.min()} to {tokens.max()}, but the model knows"
            f" 0 to {n_vocab - 1}; use the model's own tokenizer"
        )


def _index(
    program: Program, weights: Weights, tokens: Tokens, gradients: bool, sample_tokens: int
) -> Index:
    matrices = {}
    for name, site in program.matrices.items():
        # The last that reads it: a tied embedding is a matrix of the head.
        section = max(k for k, s in enumerate(program.sections) if name in s.tensors)
        *stack, rows, columns = weights.shapes[name]
        matrices[name] = Matrix(site, section, rows, columns, *stack)
    digest = hashlib.sha256(f"{FORMAT} {tokens.shape} {gradients} {sample_tokens} ".encode())
    digest.update(np.ascontiguousarray(tokens, "<i4").tobytes())
    digest.update(weights.digest())
    if any(isinstance(op, Gated) and op.activation is gelu_in_halves for op in program.operations):
        digest.update(b"gelu in halves")
    names = [section.name for section in program.sections]
    sequences, context = tokens.shape
    return Index(digest.hexdigest(), sequences, context, gradients, names, matrices)

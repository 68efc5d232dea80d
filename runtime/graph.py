"""From an architecture's forward pass to a program: operations, their descriptions, barriers.

The forward pass is written once, in terms of `Graph`; a phase decides which operations it becomes:
`DECODE` (one token), `FEW` (up to a tile of tokens, logits of all), `PREFILL` (many tokens, logits
of the last), `SCORE` (many tokens, logits of all). The first two multiply vectors, the rest panels.
Barriers are derived, not placed by hand: each operation says what it reads and writes and how the
threads divide that; where two divisions of the same memory meet, a barrier goes between.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from ggq.blocks._frame import Frame, padded, tile_tokens
from ggq.jit import Kernel, prepare
from ggq.reader import Tensor
from ggq.runtime.arch._base import RopeScaling
from ggq.runtime.kernels import activation, attention, attention_tiles, heads, linear, norm, panels
from ggq.runtime.kernels._op import PRIVATE, Op, Step
from ggq.runtime.kvcache import KVCache
from ggq.runtime.rope import RopeTable
from ggq.runtime.threads import Program, aligned

PAGE = 4096
TOKENS, ROWS, ALL, OWN = "tokens", "rows", "all", "own"
Access = tuple["Rows", str]


class Phase(Enum):
    """What a program is for."""

    DECODE = "decode"
    FEW = "few"
    PREFILL = "prefill"
    SCORE = "score"


@dataclass
class Rows:
    """f32 activations [tokens, cols], `stride` bytes a row; in shared or in private memory."""

    name: str
    word: int
    stride: int
    cols: int
    rounded: bool = False  # whether they are products of numbers that were rounded
    layouts: dict[str, int] = field(default_factory=dict)  # frame key -> word of the laid out copy


@dataclass(frozen=True)
class Head:
    """The last step of a forward pass: logits f32 [T, V] of `states` f32 [T, D] through a matrix.

    `states` is the memory it reads; with `softcap` c a logit is c tanh(logit / c).
    """

    name: str
    softcap: float
    states: npt.NDArray[np.float32]


@dataclass
class _Memory:
    """What was done to one buffer since the last barrier."""

    written: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)


class Graph:
    """Builds one program. `tensors` are the model's, `tokens` the most tokens of one run.

    With `exact` activations are never rounded to bytes: slower, and as exact as the weights.
    """

    def __init__(
        self, phase: Phase, tensors: Mapping[str, Tensor], tokens: int, cache: KVCache,
        ropes: dict[Hashable, RopeTable], exact: bool = False,
    ) -> None:  # fmt: skip
        self.phase = phase
        self.tensors = tensors
        self.cache = cache
        self.ropes = ropes
        self.exact = exact
        self.count = tokens
        self.tokens = -(-tokens // tile_tokens()) * tile_tokens()
        self.private_bytes = 0
        self.logits: npt.NDArray[np.float32] | None = None
        self.head: Head | None = None
        self._one = phase is Phase.DECODE
        self._keep: list[npt.NDArray[Any]] = []
        self._shared: dict[str, Rows] = {}
        self._owned: dict[str, tuple[int, int]] = {}  # word, bytes
        self._program: list[Step] = []
        self._pending: dict[str, _Memory] = {}

    # -- memory ----------------------------------------------------------------------------------

    def _rows(self, name: str, cols: int, tokens: int = 0) -> Rows:
        """Shared rows; the same name is the same memory, so layers reuse each other's."""
        stride = padded(4 * cols)
        # Rows whole pages apart would share a few places of the caches.
        stride += 64 * (stride % PAGE == 0)
        if name not in self._shared:
            memory = aligned(stride * (tokens or self.tokens))
            self._keep.append(memory)
            self._shared[name] = Rows(name, memory.ctypes.data, stride, cols)
        return Rows(name, self._shared[name].word, stride, cols)

    def _buffer(self, name: str, nbytes: int) -> Rows:
        """Shared memory that is not rows of singles."""
        if name not in self._shared:
            memory = aligned(nbytes)
            self._keep.append(memory)
            self._shared[name] = Rows(name, memory.ctypes.data, 0, 0)
        return self._shared[name]

    def _own(self, name: str, nbytes: int) -> int:
        """Word of memory that every thread has for itself; uses of a name share it if it fits."""
        word, room = self._owned.get(name, (0, 0))
        if room < nbytes:
            word = self.private_bytes | PRIVATE
            self._owned[name] = word, nbytes
            self.private_bytes += padded(nbytes)
        return word

    # -- the program -----------------------------------------------------------------------------

    def _emit(
        self, op: Op, reads: list[Access], writes: list[Access], **words: int | float
    ) -> None:
        if self._conflicts(reads, writes):
            self._program.append(Step())
            self._pending.clear()
        for rows, how in reads:
            self._pending.setdefault(rows.name, _Memory()).read.add(how)
        for rows, how in writes:
            self._pending.setdefault(rows.name, _Memory()).written.add(how)
        description = np.array(op.describe(**words), np.int64)
        self._program.append(Step(op, description))

    def _conflicts(self, reads: list[Access], writes: list[Access]) -> bool:
        """Whether any of this memory was touched before under another division."""
        for rows, how in reads:
            before = self._pending.get(rows.name)
            if before and how != OWN and before.written - {how} | before.written & {ALL}:
                return True
        for rows, how in writes:
            before = self._pending.get(rows.name)
            if before and how != OWN:
                touched = before.written | before.read
                if touched - {how} or ALL in touched:
                    return True
        return False

    def kernels(self) -> list[Kernel]:
        """Every kernel of the program, each once."""
        return list({id(s.op): s.op.kernel for s in self._program if s.op}.values())

    def program(self, threads: int) -> Program:
        """What was built, for so many threads."""
        prepare(self.kernels())
        operations = [
            (s.op.kernel.address, s.description.ctypes.data)
            if s.op and s.description is not None
            else (0, 0)
            for s in self._program
        ]
        return Program(
            np.array(operations, np.int64), self.private_bytes, threads, self._program, self._keep
        )

    # -- what a forward pass is made of ----------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether the file holds an optional tensor."""
        return name in self.tensors

    def rope(self, dims: int, base: float, scaling: RopeScaling, factors: str = "") -> RopeTable:
        """Table of rotary positions; `factors` names a tensor of divisors that may be there."""
        key = (dims, base, scaling, factors)
        if key not in self.ropes:
            tensor = self.tensors.get(factors)
            divisors = tensor.dequantize() if tensor else None
            self.ropes[key] = RopeTable(dims, base, self.cache.positions, scaling, divisors)
        return self.ropes[key]

    def _vector(self, name: str) -> int:
        return self.tensors[name].address

    def embed(self, name: str, scale: float = 1.0) -> Rows:
        """[T, D]: rows of the table, one per token, times `scale`."""
        table = self.tensors[name]
        x = self._rows("x", table.shape[1])
        self._emit(
            linear.embed(table.type), [], [(x, TOKENS)],
            table=table.address, row_bytes=table.type.row_bytes(x.cols), cols=x.cols,
            scale=scale, x=x.word, stride=x.stride,
        )  # fmt: skip
        return x

    def states(self, cols: int) -> Rows:
        """[T, cols]: rows that are there already, put in by hand."""
        return self._rows("states", cols)

    def norm(self, x: Rows, name: str, eps: float, *, last: bool = False) -> Rows:
        """[T, D]: RMS norm of every token; with `last`, of the last one only, unless scoring."""
        words = {
            "x": x.word, "stride": x.stride, "cols": x.cols,
            "weight": self._vector(name), "eps": eps,
        }  # fmt: skip
        if self._one or (last and self.phase is Phase.PREFILL):
            out = Rows("norm.own", self._own("norm", 4 * x.cols), 0, x.cols)
            self._emit(norm.rms_norm_last, [(x, ALL)], [(out, OWN)], out=out.word, **words)
            return out
        out = self._rows("norm", x.cols)
        self._emit(
            norm.rms_norm,
            [(x, TOKENS)],
            [(out, TOKENS)],
            out=out.word,
            out_stride=out.stride,
            **words,
        )
        return out

    def add_norm(self, y: Rows, name: str, eps: float, x: Rows) -> None:
        """x += RMS norm of y."""
        self._emit(
            norm.add_rms_norm, [(y, TOKENS), (x, TOKENS)], [(x, TOKENS)],
            y=y.word, stride=y.stride, weight=self._vector(name), cols=y.cols, eps=eps,
            x=x.word, x_stride=x.stride,
        )  # fmt: skip

    def linear(self, x: Rows, name: str, *, into: Rows | None = None, bias: str = "") -> Rows:
        """[T, R] = x W^T (+ bias); with `into`, added to those rows instead."""
        weight = self.tensors[f"{name}.weight"]
        rows, cols = weight.shape
        single = self._one or bool(x.word & PRIVATE)
        y = into or self._rows(_role(name), rows, 1 if single else 0)
        words = {
            "w": weight.address, "row_bytes": weight.type.row_bytes(cols), "rows": rows,
            "cols": cols, "y": y.word, "stride": y.stride, "accumulate": int(into is not None),
        }  # fmt: skip
        by_turns = single or self.phase is Phase.FEW
        # No other step's turns are the same.
        how = f"turns {len(self._program)}" if by_turns else f"{ROWS} {rows}"
        taken = self._own(how, 8) if by_turns else 0
        reads: list[Access] = [(y, how)] if into else []
        if single:
            image = self._image(x, weight)
            op = linear.matvec(weight.type, self.exact)
            self._emit(op, reads, [(y, how)], x=image, nbytes=0, taken=taken, **words)
        elif self.phase is Phase.FEW:
            images, nbytes = self._images(x, weight)
            op = linear.matvec(weight.type, self.exact, self.count)
            reads.append((images, ALL))
            words |= {"x": images.word, "nbytes": nbytes, "taken": taken}
            self._emit(op, reads, [(y, how)], **words)
        else:
            tiles, nbytes = self._tiles(x, weight)
            frame = linear.frame_of(weight.type, self.exact)
            y.rounded = frame.tile_number < 4
            panel = self._own("panel", frame.panel_bytes(cols))
            self._emit(
                linear.matmat(weight.type, self.exact), [*reads, (tiles, ALL)], [(y, how)],
                x=tiles.word, nbytes=nbytes, panel=panel, **words,
            )  # fmt: skip
        if bias and self.has(bias):
            self._emit(
                linear.add_bias(), [(y, TOKENS)], [(y, TOKENS)],
                y=y.word, stride=y.stride, bias=self._vector(bias), rows=rows,
            )  # fmt: skip
        return y

    def _image(self, x: Rows, weight: Tensor) -> int:
        """Word of x laid out for one vector, made once per layout."""
        frame = linear.frame_of(weight.type, self.exact)
        if frame.key not in x.layouts:
            out = self._own(f"image.{x.name}.{frame.key}", frame.image_bytes(x.cols))
            x.layouts[frame.key] = out
            how = OWN if x.word & PRIVATE else ALL
            self._emit(
                linear.image(frame.key, frame), [(x, how)], [],
                x=x.word, stride=x.stride, cols=x.cols, out=out,
            )  # fmt: skip
        return x.layouts[frame.key]

    def _images(self, x: Rows, weight: Tensor) -> tuple[Rows, int]:
        """x laid out for vectors, made once per layout, and the bytes of one token's."""
        frame = linear.frame_of(weight.type, self.exact)
        op = linear.images(frame.key, frame)
        nbytes = frame.image_bytes(x.cols)
        return self._laid_out("images", op, x, frame, nbytes, self.tokens), nbytes

    def _tiles(self, x: Rows, weight: Tensor) -> tuple[Rows, int]:
        """x laid out for tiles of tokens, made once per layout, and the bytes of a tile."""
        frame = linear.frame_of(weight.type, self.exact)
        op = linear.tile(frame.key, frame)
        nbytes = frame.tile_bytes(x.cols)
        return self._laid_out("tiles", op, x, frame, nbytes, self.tokens // tile_tokens()), nbytes

    def _laid_out(self, kind: str, op: Op, x: Rows, frame: Frame, nbytes: int, count: int) -> Rows:
        name = f"{kind}.{x.name}.{frame.key}"
        out = self._buffer(name, nbytes * count)
        if name not in x.layouts:
            x.layouts[name] = out.word
            self._emit(
                op, [(x, TOKENS)], [(out, TOKENS)],
                x=x.word, stride=x.stride, cols=x.cols, nbytes=nbytes, out=out.word,
            )  # fmt: skip
        return out

    def attention(
        self, q: Rows, k: Rows, v: Rows, layer: int, *, heads_q: int, heads_kv: int, dims: int,
        rope: RopeTable, neox: bool, scale: float, window: int = 0, softcap: float = 0.0,
        eps: float = 0.0, q_norm: str = "", k_norm: str = "",
    ) -> Rows:  # fmt: skip
        """[T, H * Dh]: norms of heads, rotary positions, cache, causal attention.

        With `window` a token sees so many positions, itself among them; with `softcap` c a score
        s becomes c tanh(s / c).
        """
        cache = self.cache
        common = {
            "q": q.word, "q_stride": q.stride, "n_head": heads_q, "n_head_kv": heads_kv,
            "dims": dims, "cache": cache.address(layer), "blocks": cache.blocks,
        }  # fmt: skip
        made = {
            "k": k.word, "k_stride": k.stride, "v": v.word, "v_stride": v.stride,
            "rope_dims": rope.dims, "table": rope.address, "eps": eps,
            "q_norm": self._vector(q_norm) if q_norm else 0,
            "k_norm": self._vector(k_norm) if k_norm else 0,
        }  # fmt: skip
        scored = attention.score_words(scale, softcap)
        scored["window"] = window or cache.positions + 1
        types, has_cap = (cache.key_type, cache.value_type), softcap > 0
        if self.phase in (Phase.DECODE, Phase.FEW):
            op = attention.attend(neox, *types, attention.at_once(heads_q // heads_kv), has_cap)
            return self._attend_few(op, (q, k, v), common | made | scored)
        kept = Rows(f"cache.{layer}", 0, 0, 0)
        self._emit(
            heads.heads(neox, *types), [(q, TOKENS), (k, TOKENS), (v, TOKENS)],
            [(q, TOKENS), (k, TOKENS), (v, TOKENS), (kept, TOKENS)], **common, **made,
        )  # fmt: skip
        out = self._rows("attention", heads_q * dims)
        panel = panels.panel_for(q.rounded and k.rounded and v.rounded)
        own = attention_tiles.own_bytes(dims, heads_q // heads_kv)
        words = {name: self._own(f"attend.{name}", nbytes) for name, nbytes in own.items()}
        self._emit(
            attention_tiles.attend_tiles(*types, has_cap, panel),
            [(q, ALL), (kept, ALL)], [(out, "query heads")],
            out=out.word, out_stride=out.stride, **words, **common, **scored,
        )  # fmt: skip
        return out

    def _attend_few(
        self, op: Op, made_from: tuple[Rows, Rows, Rows], words: dict[str, int | float]
    ) -> Rows:
        """Attention by blocks of the cache, then all blocks combined."""
        n_head, dims = int(words["n_head"]), int(words["dims"])
        count = n_head * self.count
        own = attention.own_bytes(
            self.cache.key_type, self.cache.value_type, count // int(words["n_head_kv"]), dims
        )
        private = {name: self._own(f"attend.{name}", nbytes) for name, nbytes in own.items()}
        slots = attention.slots_of(self.cache.blocks)
        left = self._buffer("partial", attention.partial_bytes(count, self.cache.blocks, dims))
        both = {"rows": count, "slots": slots, "partial": left.word}
        self._emit(op, [(x, ALL) for x in made_from], [(left, ALL)], **words, **private, **both)
        if self._one:
            word = self._own("attention", 4 * n_head * dims)
            out, how = Rows("attention.own", word, 0, n_head * dims), OWN
        else:
            out, how = self._rows("attention", n_head * dims), "rows of heads"
        self._emit(
            attention.combine(self.cache.value_type.rotated, self._one),
            [(left, ALL)], [(out, how)], n_head=n_head, dims=dims, window=words["window"],
            factors=self._own("attend.factors", 4 * slots), out=out.word, out_stride=out.stride,
            **both,
        )  # fmt: skip
        return out

    def gated(self, kind: str, gate: Rows, up: Rows) -> Rows:
        """[T, F] = f(gate) * up with f one of activation.GATED."""
        one, all_tokens = activation.GATED[kind]
        words = {"gate": gate.word, "up": up.word, "cols": gate.cols}
        if self._one:  # done by every thread: sooner than they could wait for each other
            out = Rows("gated.own", self._own("gated", 4 * gate.cols), 0, gate.cols)
            self._emit(one, [(gate, ALL), (up, ALL)], [(out, OWN)], out=out.word, **words)
            return out
        out = self._rows("gated", gate.cols)
        reads: list[Access] = [(gate, TOKENS), (up, TOKENS)]
        words |= {"out": out.word, "stride": gate.stride}
        self._emit(all_tokens, reads, [(out, TOKENS)], **words)
        return out

    def experts(self, x: Rows, name: str, used: int, *, into: Rows) -> None:
        """Add to `into` [T, D] what the `used` experts that the router picks make of each token."""
        from ggq.runtime.experts import experts

        experts(self, x, name, used, into=into)

    def output(self, x: Rows, name: str, softcap: float = 0.0) -> None:
        """Logits [1 or T, V] of the normalized x; with `softcap` c, c tanh(logit / c) instead."""
        y = self.linear(x, name)
        if softcap:
            self._emit(
                activation.softcap, [(y, TOKENS)], [(y, TOKENS)],
                y=y.word, stride=y.stride, cols=y.cols, cap=softcap,
            )  # fmt: skip
        tokens = self.tokens if self.phase in (Phase.SCORE, Phase.FEW) else 1
        memory = self._keep_of(y.word)[: tokens * y.stride]
        self.logits = memory.view(np.float32).reshape(tokens, -1)[
            :, : self.tensors[f"{name}.weight"].shape[0]
        ]
        if not x.word & PRIVATE:
            states = self._keep_of(x.word).view(np.float32).reshape(-1, x.stride // 4)
            self.head = Head(name, softcap, states[:, : x.cols])

    def _keep_of(self, word: int) -> npt.NDArray[Any]:
        return next(memory for memory in self._keep if memory.ctypes.data == word)


def _role(name: str) -> str:
    """Name without its layer, "blk.3.attn_q" -> "attn_q": layers share each other's memory."""
    return name.split(".", 2)[2] if name.startswith("blk.") else name

"""Keys and values of past positions, in the layout of kernels/cache.py."""

from __future__ import annotations

from ggq.runtime.kernels.cache import BLOCK, block_bytes
from ggq.runtime.kernels.cache_types import by_name
from ggq.runtime.threads import aligned


class KVCache:
    """Room for `n_ctx` positions in every layer; pages are touched only as positions are used.

    `type_k` and `type_v` are names of cache types. Raises UsageError for those there are not, and
    for those that cannot hold heads of `head_dim`.
    """

    def __init__(
        self, n_layer: int, n_head_kv: int, head_dim: int, n_ctx: int,
        type_k: str = "f16", type_v: str = "f16",
    ) -> None:  # fmt: skip
        self.key_type, self.value_type = by_name(type_k, head_dim), by_name(type_v, head_dim)
        self.blocks = -(-n_ctx // BLOCK)
        self.positions = self.blocks * BLOCK
        head_bytes = self.blocks * block_bytes(self.key_type, self.value_type, head_dim)
        self._layer_bytes = n_head_kv * head_bytes
        self._memory = aligned(n_layer * self._layer_bytes)

    @property
    def position_bytes(self) -> int:
        """Bytes that hold one position in one layer."""
        return self._layer_bytes // self.positions

    def address(self, layer: int) -> int:
        """Address of one layer's blocks."""
        return int(self._memory.ctypes.data) + layer * self._layer_bytes

"""Keys and values of past positions, half precision, in the layout of kernels/heads.py."""

from __future__ import annotations

from ggq.blocks._frame import tile_tokens
from ggq.runtime.kernels.heads import KEY_BLOCK
from ggq.runtime.threads import aligned


class KVCache:
    """Room for `n_ctx` positions in every layer; pages are touched only as positions are used."""

    def __init__(self, n_layer: int, n_head_kv: int, head_dim: int, n_ctx: int) -> None:
        # The last tile of a prompt looks up to a tile beyond its last token.
        room = n_ctx + tile_tokens()
        self.positions = -(-room // KEY_BLOCK) * KEY_BLOCK
        self._layer_bytes = 2 * n_head_kv * head_dim * self.positions
        self._memory = aligned(2 * n_layer * self._layer_bytes)

    @property
    def position_bytes(self) -> int:
        """Bytes that hold one position in one layer."""
        return 2 * self._layer_bytes // self.positions

    def addresses(self, layer: int) -> tuple[int, int]:
        """Addresses of the keys and of the values of one layer."""
        keys = self._memory.ctypes.data + 2 * layer * self._layer_bytes
        return keys, keys + self._layer_bytes

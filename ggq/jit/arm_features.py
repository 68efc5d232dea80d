"""What a 64-bit ARM processor can do, asked of the system: LLVM's own list leaves features out.

Sources: Linux arch/arm64/include/uapi/asm/hwcap.h; Apple, "Determining instruction set
characteristics"; Windows, winnt.h, processor features.
"""

from __future__ import annotations

import ctypes
import struct
import sys

_AUXILIARY = "/proc/self/auxv"
_HWCAP, _HWCAP2 = 16, 26  # keys of the auxiliary vector
_ASIMD, _ASIMDDP, _I8MM = 1 << 1, 1 << 20, 1 << 13
_WINDOWS = {"dotprod": 43, "i8mm": 66}  # PF_ARM_V82_*_INSTRUCTIONS_AVAILABLE
_APPLE = {"dotprod": "FEAT_DotProd", "i8mm": "FEAT_I8MM"}


def arm_features() -> dict[str, bool]:
    """LLVM's names of the features the forms of kernels need -> whether they are there."""
    if sys.platform == "darwin":
        return {"neon": True} | {name: _apple(key) for name, key in _APPLE.items()}
    if sys.platform == "win32":
        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        return {"neon": True} | {name: bool(present(key)) for name, key in _WINDOWS.items()}
    try:
        with open(_AUXILIARY, "rb") as file:
            data = file.read()
    except OSError:
        return {}
    vector = dict(struct.iter_unpack("=QQ", data[: len(data) // 16 * 16]))
    first, second = vector.get(_HWCAP, 0), vector.get(_HWCAP2, 0)
    return {
        "neon": bool(first & _ASIMD),
        "dotprod": bool(first & _ASIMDDP),
        "i8mm": bool(second & _I8MM),
    }


def _apple(key: str) -> bool:
    value, size = ctypes.c_int(0), ctypes.c_size_t(4)
    name = f"hw.optional.arm.{key}".encode()
    known = ctypes.CDLL(None).sysctlbyname(
        name, ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)
    )
    return known == 0 and bool(value.value)

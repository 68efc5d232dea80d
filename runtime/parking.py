"""Where a thread waits that compiled code sends to sleep and wakes: a lock of Python's, by address.

Every system has these locks, and their functions need no interpreter. They are part of Python's
stable C interface.
"""

from __future__ import annotations

import ctypes

_NO_WAIT = 0


def _address(name: str) -> int:
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


ACQUIRE = _address("PyThread_acquire_lock")  # (lock, 1): sleep until it is released
RELEASE = _address("PyThread_release_lock")  # (lock): another thread may have acquired it

_allocate = ctypes.PYFUNCTYPE(ctypes.c_void_p)(_address("PyThread_allocate_lock"))
_acquire = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(ACQUIRE)
_free = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_address("PyThread_free_lock"))


def new_lock() -> int:
    """Address of a lock that is held. Raises MemoryError."""
    lock = _allocate()
    if not lock:
        raise MemoryError("no lock can be had")
    _acquire(lock, _NO_WAIT)
    return int(lock)


def free_lock(lock: int) -> None:
    """End a lock that nobody waits for."""
    _free(lock)

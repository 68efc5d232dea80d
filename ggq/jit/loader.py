"""Kept machine code into this process: directly where that is possible, by LLVM elsewhere."""

from __future__ import annotations

from typing import Any

from ggq.jit import elf

_engine: Any = None
_loaded: dict[str, Any] = {}  # by LLVM; an object file must outlive its use


def load(symbol: str, code: bytes) -> int:
    """Address of the function `symbol` of an object file."""
    try:
        return elf.load(symbol, code)
    except elf.UnfitError:
        return _load_by_llvm(symbol, code)


def _load_by_llvm(symbol: str, code: bytes) -> int:
    import llvmlite.binding as llvm

    if symbol not in _loaded:
        _loaded[symbol] = llvm.ObjectFileRef.from_data(code)
        _llvm_engine(llvm).add_object_file(_loaded[symbol])
        _engine.finalize_object()
    address: int = _engine.get_function_address(symbol)
    if not address:
        raise RuntimeError(f"no function {symbol} in the kept machine code")
    return address


def _llvm_engine(llvm: Any) -> Any:
    global _engine
    if _engine is None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
        module = llvm.parse_assembly("")
        module.triple = llvm.get_process_triple()
        _engine = llvm.create_mcjit_compiler(module, machine)
    return _engine

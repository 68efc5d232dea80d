"""Kernels as assembly for processors this machine need not be: python -m tests.cross_compile FOLDER

Writes FOLDER/FORM/KERNEL.s for every form, compiled for a processor with the features the form
needs and no others. An intrinsic the processor lacks ends the process; the last line printed tells
which kernel it was.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core.codegen import CPUCodegen, CPUCodeLibrary
from numba.core.compiler_lock import global_compiler_lock

import ggq
from ggq.blocks import all_types, by_name
from ggq.blocks._quantize import quantize_kernel
from ggq.jit import Kernel, cpu
from ggq.jit.compile import write_kernel
from ggq.runtime.arch import by_name as arch_by_name
from ggq.runtime.graph import Graph, Phase
from ggq.runtime.kernels import execute, linear
from ggq.runtime.kvcache import KVCache
from tests.models import TINY

X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
TRIPLES = {
    "generic": X86, "avx2": X86, "avxvnni": X86, "avx512": X86,
    "neon": ARM, "dotprod": ARM, "i8mm": ARM,
}  # fmt: skip
TYPES = ("Q4_K", "Q8_0")
SHORT = "BF16"
QUANTIZED = ("Q4_K", "Q4_0")


class Library(CPUCodeLibrary):  # type: ignore[misc]
    """numba's passes, without the engine that would run the code."""

    def _finalize_specific(self) -> None:
        pass


class CrossCompiler(CPUCodegen):  # type: ignore[misc]
    """numba's code generator for any processor."""

    _library_class = Library

    def __init__(self, form: str) -> None:
        self.triple, self.machine = TRIPLES[form], cpu.Machine("generic", cpu.FORMS[form][0])
        super().__init__("cross")

    def _init(self, llvm_module: Any) -> None:
        target = llvm.Target.from_triple(self.triple)
        self._tm_features = self.machine.flags
        self._tm = target.create_target_machine(
            cpu=self.machine.name,
            features=self.machine.flags,
            opt=3,
            reloc="pic",
            codemodel="small",
        )
        self._data_layout = str(self._tm.target_data)
        self._loopvect, self._opt_level = False, 0

    def _create_empty_module(self, name: str) -> Any:
        module = super()._create_empty_module(name)
        module.triple = self.triple
        return module

    def _add_module(self, module: Any) -> None:
        pass

    def assembly(self, kernel: Kernel) -> str:
        """The kernel, compiled."""
        with global_compiler_lock:
            library = self.create_library(kernel.symbol)
            module = library.create_ir_module(kernel.symbol)
            write_kernel(ir, module, kernel.symbol, kernel._body, kernel.n_args)
            library.add_ir_module(module)
            library.finalize()
            return str(library.get_asm_str())


def program_kernels(path: Path) -> Iterator[Kernel]:
    """Every kernel a model's programs call."""
    with ggq.open(path) as file:
        arch = arch_by_name(file.metadata.require("general.architecture", str))
        h = arch.hparams(file.metadata)
        cache = KVCache(h.n_layer, h.n_head_kv, h.head_dim, 64)
        for phase in (Phase.DECODE, Phase.PREFILL):
            graph = Graph(phase, file.tensors, 1 if phase is Phase.DECODE else 16, cache, {})
            arch.forward(graph, h)
            yield from graph.kernels()


def kernels(folder: Path) -> list[Kernel]:
    """One kernel of each kind, and those that multiply for a few types."""
    path = TINY["gemma3"].write_gguf(folder / "model.gguf")
    found = {each.name: each for each in program_kernels(path)}
    for each in (execute.run, execute.dismiss, execute.work):
        found[each.name] = each
    for family in map(by_name, TYPES):
        frame = linear.frame_of(family, False)
        for op in (
            linear.image(frame.key, frame), linear.matvec(family, False),
            linear.tile(frame.key, frame), linear.matmat(family, False),
        ):  # fmt: skip
            found[op.kernel.name] = op.kernel
    for op in (linear.matvec(by_name(SHORT), False), linear.matmat(by_name(SHORT), False)):
        found[op.kernel.name] = op.kernel
    for family in map(by_name, QUANTIZED):
        found[f"quantize.{family}"] = quantize_kernel(family, False)
    return list(found.values())


def trace_all_types() -> None:
    """Write, but do not compile, what multiplies in prefill."""
    for family in all_types():
        kernel = linear.matmat(family, False).kernel
        module = ir.Module(kernel.symbol)
        write_kernel(ir, module, kernel.symbol, kernel._body, kernel.n_args)


def main(out: Path) -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    with tempfile.TemporaryDirectory() as folder:
        chosen = kernels(Path(folder))
    for form in TRIPLES:
        compiler = CrossCompiler(form)
        cpu.host = lambda machine=compiler.machine: machine
        (out / form).mkdir()
        for kernel in chosen:
            print(form, kernel.name, flush=True)
            (out / form / f"{kernel.name}.s").write_text(compiler.assembly(kernel))
        if form == "i8mm":  # the only form whose panels hold words in pairs
            trace_all_types()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

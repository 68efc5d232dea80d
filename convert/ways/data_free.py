"""Conversions that run no text through the model."""

from __future__ import annotations

from ggq.convert.cli_defaults import BEST_WITHOUT_DATA
from ggq.convert.imatrix import Imatrix
from ggq.convert.mixtures.plan import Plan
from ggq.convert.mixtures.presets import is_quantized
from ggq.convert.reports.account import Account, TensorAccount
from ggq.convert.sources.tensor_source import Source
from ggq.convert.ways.affordable import cannot_run
from ggq.convert.ways.prepared import Prepared
from ggq.convert.ways.settings import Settings
from ggq.convert.writing.encoders import Encoder, LatticeEncoder, MethodEncoder


def prepare_data_free(
    wishes: Settings, source: Source, plan: Plan, imatrix: Imatrix | None
) -> Prepared:
    """The plan with the encoder of the method asked for.

    The best method also gets to know which columns matter, of a model that ggq can run. Raises
    ImatrixNeededError.
    """
    encoder = Encoder()
    if wishes.method != "llama":
        from ggq.convert.methods import by_name

        encoder = MethodEncoder(by_name(wishes.method))
    on_grid: frozenset[str] = frozenset()
    if wishes.lattice:
        from ggq.convert.ways.on_lattice import keep_lattices

        plan, on_grid = keep_lattices(plan, source)
        encoder = LatticeEncoder(encoder, on_grid)
    plan.require_imatrix(imatrix)
    importance = imatrix
    if wishes.method == BEST_WITHOUT_DATA and _is_quantized(plan) and not cannot_run(source):
        from ggq.convert.ways.random_tokens import importance_of_columns

        importance = importance_of_columns(source, wishes.seed, wishes.progress)
    account = Account(
        tensors=[TensorAccount(t.name, t.type.name, t.rule, t.bytes) for t in plan.tensors]
    )
    if wishes.method != "llama":
        account.facts |= {"method": wishes.method, "allocation": "preset"}
    if on_grid:
        account.facts["lattice.tensors"] = len(on_grid)
    return Prepared(source, plan, encoder, account, imatrix, importance)


def _is_quantized(plan: Plan) -> bool:
    return any(is_quantized(tensor.type) and not tensor.copied for tensor in plan.tensors)

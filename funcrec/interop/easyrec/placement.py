"""Which optimizer owns which table.

The original plans where its tables live before it trains, by estimated costs. A *sharded* table belongs to
``sparse_optimizer``, fused into the backward pass. A *data-parallel* table is an ordinary weight of
``dense_optimizer``: all its rows age in every step, its name counts for ``part_optimizers``, clipping, accumulation and
moving averages reach it, and ``sparse_optimizer`` does not. By torchrec's estimates for one process on a CPU, tables of
some tens of rows come out data-parallel and large ones sharded. Constraints of the config rule kinds out:
``embedding_constraints`` of a feature for its table, else the global ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.embedding.rows import Gradient, RowGrad, densify, summands
from funcrec.embedding.spec import EmbeddingSpec

Plan = Literal["data_parallel", "sharded"]


class Placement(NamedTuple):
    """``weights``: tables that are weights of the dense optimizer. ``ruled``: by stack, the rows of the row rule's."""

    weights: tuple[str, ...]
    ruled: dict[str, Tensor]


def place(
    spec: EmbeddingSpec,
    train_config: Any,
    plan: Plan | Mapping[str, Plan],
    frozen: Sequence[str],
    constraints: Mapping[str, Any],
) -> Placement:
    """The owner of every table; frozen ones have none.

    Args:
        plan: of all tables, or by table; tables that it leaves out are data-parallel where they may be.
        constraints: the messages of tables with ``embedding_constraints`` of their own.

    Raises:
        ConfigError: an unknown plan or table.
    """
    by_table = plan if isinstance(plan, Mapping) else dict.fromkeys(spec.stack_of, plan)
    for name, kind in by_table.items():
        if kind not in get_args(Plan):
            fail(ConfigError, "init_training: plan", got=repr(kind), expected=f"one of {get_args(Plan)}")
        if name not in spec.stack_of:
            fail(ConfigError, f"init_training: plan of table {name!r}", expected=f"names among {sorted(spec.stack_of)}")
    trained = [t.name for t in spec.tables if t.name not in frozen]
    weights = tuple(
        name
        for name in trained
        if by_table.get(name, "data_parallel") == "data_parallel"
        and _allows_data_parallel(constraints.get(name, train_config.global_embedding_constraints))
    )
    ruled = {s.name: torch.zeros(s.rows, dtype=torch.bool) for s in spec.stacks}
    for name in trained:
        if name not in weights:
            _rows(spec, ruled, name).fill_(True)
    return Placement(weights, ruled)


def _allows_data_parallel(limits: Any) -> bool:
    types, kernels = list(limits.sharding_types), list(limits.compute_kernels)
    return (not types or "data_parallel" in types) and (not kernels or "dense" in kernels)


def table_weights(spec: EmbeddingSpec, placement: Placement, stacks: TensorDict) -> list[Tensor]:
    """The tables of the dense optimizer, as views of their stacks."""
    return [_rows(spec, stacks, name) for name in placement.weights]


def table_gradients(spec: EmbeddingSpec, placement: Placement, gradient: Gradient, stacks: TensorDict) -> list[Tensor]:
    """The whole gradients of these tables, ``[rows, dim]`` each; zero where no row was looked up."""
    own = {spec.stack_of[name].name for name in placement.weights}
    whole = {n: densify(gradient[n], stacks[n].shape[0]) if n in gradient else torch.zeros_like(stacks[n]) for n in own}
    return [_rows(spec, whole, name) for name in placement.weights]


def ruled_gradient(placement: Placement, gradient: Gradient) -> Gradient:
    """The gradient of the rows that the row rule trains, stacks without any left out."""

    def kept() -> Iterator[tuple[str, RowGrad]]:
        for name, g in gradient.items():
            mask = placement.ruled[name]
            if mask.all():
                yield name, g
            elif mask.any():
                assert g.rows is not None, "a row-wise store names its rows"
                keep = mask.to(g.rows.device)[g.rows.long()].nonzero().squeeze(1)
                yield name, RowGrad(g.rows[keep], summands(g, keep), unique=g.unique)

    return dict(kept())


def with_table_weights(
    spec: EmbeddingSpec, placement: Placement, stacks: TensorDict, tables: Sequence[Tensor]
) -> TensorDict:
    """The stacks with these tables in place of the dense optimizer's; the others are not copied."""
    own = {spec.stack_of[name].name for name in placement.weights}
    new = {name: stack.clone() if name in own else stack for name, stack in stacks.items()}
    for name, table in zip(placement.weights, tables, strict=True):
        _rows(spec, new, name).copy_(table)
    return TensorDict(new, batch_size=[])


def _rows(spec: EmbeddingSpec, stacks: Any, table: str) -> Tensor:
    """A view of one table's part of something that is as long as its stack."""
    stack = spec.stack_of[table]
    start = stack.offsets[table]
    return stacks[stack.name][start : start + next(t.rows for t in stack.tables if t.name == table)]

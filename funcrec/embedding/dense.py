"""The dense store: tables are ordinary differentiable leaves, updated whole by any optimizer.

Every row ages, decays and is regularized in every step, as with ``torch.nn.Embedding(sparse=False)``; memory and time
are proportional to the tables, not to the batch. ``lookup`` is differentiable in the tables, so every transform of
``torch.func`` reaches them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.impl import Impl, check_impl
from funcrec.embedding.lookup import Touched, gather, scatter
from funcrec.embedding.rows import Gradient, RowGrad, densify, summed
from funcrec.embedding.spec import EmbeddingSpec, Stack
from funcrec.embedding.store import Store, Tables, init_weights
from funcrec.optim import Optimizer


def _l2_factor(stack: Stack, l2: float | Mapping[str, float]) -> float | Tensor:
    """λ of a stack: one number, or one a row where tables differ."""
    if not isinstance(l2, Mapping):
        return float(l2)
    return torch.cat([torch.full((t.rows, 1), float(l2.get(t.name, 0.0))) for t in stack.tables])


def _write_beginnings(state: Any, some: Any, none: Any, rows: Tensor) -> None:
    """Put ``rows`` of an optimizer's state where they began: what ``init`` gave for as many rows and for none.

    A tensor that is longer in one than in the other has an entry a row. Others (counts, rates) belong to all rows.

    Raises:
        ConfigError: a state that has no row for each row of its table.
    """
    if not isinstance(state, Tensor):
        for k in range(len(state)) if isinstance(state, (list, tuple)) else state:
            _write_beginnings(state[k], some[k], none[k], rows)
    elif some.shape != none.shape:
        if some.shape[1:] != state.shape[1:] or some.shape[1:] != none.shape[1:]:
            what, fix = "reset: a state of the dense store's optimizer", "take the row-wise store"
            fail(ConfigError, what, got=tuple(state.shape), expected="an entry a row of the table", fix=fix)
        state.index_copy_(0, rows, some)


def dense_store(
    spec: EmbeddingSpec,
    optimizer: Optimizer,
    *,
    l2: float | Mapping[str, float] = 0.0,
    impl: Impl = "auto",
    check_ids: bool = True,
) -> Store:
    """A store whose tables are dense parameters.

    Args:
        optimizer: any optimizer of ``funcrec.optim``; it sees one leaf per stack of tables.
        l2: λ of the penalty ``(λ/2) Σ ‖W‖²`` over *all* rows in every step, one number or one by table name.
        impl: which form runs; see :func:`funcrec.kernels.registry.use`. A kernel pools ragged ids.
        check_ids: see :func:`funcrec.embedding.lookup.gather`.
    """
    check_impl("dense_store", impl)
    if isinstance(l2, Mapping):
        unknown = sorted(set(l2) - {t.name for t in spec.tables})
        if unknown:
            fail(ConfigError, "l2 by table", got=unknown, expected=f"names among {[t.name for t in spec.tables]}")
    names = [s.name for s in spec.stacks]
    factors = {s.name: _l2_factor(s, l2) for s in spec.stacks}
    penalized = {n for n, f in factors.items() if isinstance(f, Tensor) or f != 0.0}

    def init(key: Tensor) -> Tables:
        weights = init_weights(spec, key)
        return {"weights": weights, "optimizer": optimizer.init([weights[n] for n in names], names)}

    def lookup(tables: Tables, ids):
        return gather(spec, tables["weights"], ids, impl=impl, check_ids=check_ids)

    def gradient(tables: Tables, touched: Touched, d_emb) -> Gradient:
        del tables
        return summed(scatter(spec, touched, d_emb))

    def regularize(tables: Tables, g: Gradient) -> Gradient:
        """Gradients of whole tables: an untouched row has a gradient too, if only that of its penalty."""
        out = {}
        for stack in spec.stacks:
            w = tables["weights"][stack.name]
            d = densify(g[stack.name], stack.rows) if stack.name in g else torch.zeros_like(w)
            if stack.name in penalized:
                factor = factors[stack.name]
                d = d + w * (factor.to(w) if isinstance(factor, Tensor) else factor)
            out[stack.name] = RowGrad(None, d, unique=True)
        return out

    def apply(tables: Tables, g: Gradient) -> Tables:
        weights = tables["weights"]
        grads = [densify(g[s.name], s.rows) for s in spec.stacks]
        leaves, state = optimizer.step(grads, tables["optimizer"], [weights[n] for n in names], donate=True)
        return {"weights": weights.replace(dict(zip(names, leaves, strict=True))), "optimizer": state}

    @torch.no_grad()
    def reset(tables: Tables, table: str, rows: Tensor, values: Tensor) -> Tables:
        stack, weights = spec.stack_of[table], tables["weights"]
        at = rows + stack.offsets[table]
        # What the optimizer begins with for so many rows of this leaf, and for none: where they differ, it is by row.
        some, none = (
            optimizer.init([(values[:n] if name == stack.name else weights[name][:0]) for name in names], names)
            for n in (rows.shape[0], 0)
        )
        _write_beginnings(tables["optimizer"], some, none, at)
        weights[stack.name].index_copy_(0, at, values)
        return tables

    return Store(init, lookup, gradient, regularize, apply, spec, reset=reset)

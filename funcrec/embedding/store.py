"""The store contract: embedding tables behind three verbs, as with a vector-Jacobian product.

    tables = store.init(key)
    emb, touched = store.lookup(tables, ids)
    tables = store.update(tables, touched, d_emb)      # donates: the old tables are dead after the call

``update`` is ``apply ∘ regularize ∘ gradient``. The three steps are there for what has to happen between them: sums
over micro-batches, a global norm over dense weights and tables together, the inverse of a loss scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, Protocol

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.ragged import Ids
from funcrec.core.random import fold_in
from funcrec.embedding.rows import Gradient
from funcrec.embedding.spec import EmbeddingSpec

# "weights": TensorDict of stacked tables, beside the optimizer's own entries: nested dicts and lists of tensors.
Tables = dict[str, Any]


def _no_reset(tables: Tables, table: str, rows: Tensor, values: Tensor) -> NoReturn:
    del tables, rows, values
    fail(ConfigError, f"reset: table {table!r}", got="a store that cannot", fix="give its Store a reset of its own")


class Begun(Protocol):
    """Ids whose lookup has begun: a mapping as they were, and what goes on behind it."""

    def advance(self) -> bool:
        """Start what can be started now; whether nothing is left to wait for."""
        ...

    def record_stream(self, stream: torch.Stream) -> None:
        """As for tensors: the lookup will be on that stream."""
        ...


class Store(NamedTuple):
    """Pure functions over tables, except that ``apply``, ``update`` and ``reset`` reuse the memory of those given."""

    init: Callable[[Tensor], Tables]
    lookup: Callable[[Tables, Ids], tuple[TensorDict, Any]]
    """The second is what ``gradient`` needs; what it is, is the store's own business."""
    gradient: Callable[[Tables, Any, TensorDict], Gradient]
    """Of the touched rows, maybe as summands: to be summed, added, scaled, measured by ``funcrec.embedding.rows``."""
    regularize: Callable[[Tables, Gradient], Gradient]
    """Adds the gradient of the store's own penalty (L2 over whole tables), once a step."""
    apply: Callable[[Tables, Gradient], Tables]
    spec: EmbeddingSpec
    processes: int = 1
    """Of how many processes a gradient sums the rows."""
    reset: Callable[[Tables, str, Tensor, Tensor], Tables] = _no_reset
    """``(tables, table, rows [n], values [n, dim])``: rows of one table become ``values``, their optimizer's statistics
    what they were before the first step. With many processes all of them say the same."""
    begin: Callable[[Tables, Ids], Ids] = lambda tables, ids: ids
    """Starts whatever of a lookup needs no weights, and returns ids to look up later: maybe :class:`Begun`."""

    def update(self, tables: Tables, touched: Any, d_emb: TensorDict) -> Tables:
        return self.apply(tables, self.regularize(tables, self.gradient(tables, touched, d_emb)))


def init_weights(spec: EmbeddingSpec, key: Tensor) -> TensorDict:
    """Every table by its own initializer under a key folded by its name, stacked by dim."""
    weights = {
        s.name: torch.cat([t.init(fold_in(key, t.name), (t.rows, t.dim), t.dtype) for t in s.tables])
        for s in spec.stacks
    }
    return TensorDict(weights, batch_size=[])

"""The gradients of one batch, two ways: through the looked-up vectors, and through the tables themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.func import grad_and_value

from funcrec.core import tree
from funcrec.core.batch import Batch
from funcrec.embedding.rows import Gradient, summed
from funcrec.embedding.spec import EmbeddingSpec
from funcrec.embedding.store import Store

Aux = tuple[dict[str, Tensor], dict[str, Tensor], TensorDict]  # losses, predictions, state


class Trainable(Protocol):
    """What training needs of a system."""

    @property
    def spec(self) -> EmbeddingSpec: ...

    @property
    def train_config(self) -> Any: ...

    @property
    def frozen_tables(self) -> tuple[str, ...]: ...

    @property
    def constraints(self) -> Mapping[str, Any]: ...

    @property
    def names(self) -> Sequence[Any]: ...

    def parameter_names(self, params: TensorDict) -> tuple[str, ...]: ...

    def losses(
        self, variables: TensorDict, batch: Batch, *, train: bool = True, key: Tensor | None = None
    ) -> tuple[Tensor, Aux]: ...

    def losses_from_embeddings(
        self,
        params: TensorDict,
        emb: TensorDict,
        features: TensorDict,
        state: TensorDict,
        *,
        train: bool = True,
        key: Tensor | None = None,
    ) -> tuple[Tensor, Aux]: ...


Pull = Callable[[Store], Gradient]
"""From a store, whose rule may clamp pooled gradients, to the gradient of the touched rows."""


def gradients_of_rows(
    system: Trainable, store: Store, variables: TensorDict, batch: Batch, key: Tensor | None, share: float
) -> tuple[TensorDict, Pull, Aux]:
    """Of ``share · Σ losses``: by dense weight, and by touched row through the vectors that the batch looked up."""
    params, state, tables = _parts(variables)
    emb, touched = store.lookup({"weights": tables}, batch.ids)

    def objective(params: TensorDict, emb: TensorDict) -> tuple[Tensor, Aux]:
        total, aux = system.losses_from_embeddings(params, emb, batch.features, state, train=True, key=key)
        return total * share, aux

    (d_params, d_emb), (_, aux) = grad_and_value(objective, argnums=(0, 1), has_aux=True)(params, emb)
    return d_params, lambda store: store.gradient({"weights": tables}, touched, d_emb), aux


def gradients_of_tables(
    system: Trainable, store: Store, variables: TensorDict, batch: Batch, key: Tensor | None, share: float
) -> tuple[TensorDict, Pull, Aux]:
    """The same numbers as :func:`gradients_of_rows` without clamp, in time and memory of whole tables."""
    params, state, tables = _parts(variables)

    def objective(params: TensorDict, tables: TensorDict) -> tuple[Tensor, Aux]:
        total, aux = system.losses(variables_of(params, state, tables), batch, train=True, key=key)
        return total * share, aux

    (d_params, d_tables), (_, aux) = grad_and_value(objective, argnums=(0, 1), has_aux=True)(params, tables)
    emb, touched = store.lookup({"weights": tables}, batch.ids)
    # Which rows occurred: a row of the batch without gradient takes its step too.
    occurred = summed(store.gradient({"weights": tables}, touched, tree.map_leaves(torch.zeros_like, emb)))
    d_rows = {n: g._replace(values=d_tables[n] if g.rows is None else d_tables[n][g.rows]) for n, g in occurred.items()}
    return d_params, lambda store: d_rows, aux


def variables_of(params: TensorDict, state: TensorDict, tables: TensorDict) -> TensorDict:
    """``{"params", "state", "tables"}``: what a system calls its variables."""
    return TensorDict({"params": params, "state": state, "tables": tables}, batch_size=[])


def _parts(variables: TensorDict) -> tuple[TensorDict, TensorDict, TensorDict]:
    return variables["params"], variables["state"], variables["tables"]

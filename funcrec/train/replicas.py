"""The parts of a step that differ where other processes take it too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core import tree
from funcrec.core.batch import Batch
from funcrec.core.ragged import Ids, Ragged
from funcrec.core.random import fold_in
from funcrec.core.replicas import Replicas
from funcrec.embedding.spec import EmbeddingSpec


def row_weight(batch: Batch | None) -> float:
    """How much a batch counts in a mean: its sample weights, or its rows."""
    if batch is None:
        return 0.0
    weighted = "weight" in batch.features.keys()
    return float(batch.features["weight"].double().sum()) if weighted else float(len(batch))


def shares(batches: Sequence[Any], replicas: Replicas) -> list[float]:
    """The share of each micro-batch in the mean over all micro-batches of all processes.

    ``batches``: each a Batch, None, or one of :func:`funcrec.train.ahead`, which says what it counts. Weights that sum
    to 0 leave no gradient, as they do in one batch.
    """
    if replicas.world == 1 and len(batches) == 1:
        return [1.0]
    if all(hasattr(b, "total") for b in batches):
        weights, whole = [b.weight for b in batches], sum(b.total for b in batches)
    else:
        weights = [b.weight if hasattr(b, "weight") else row_weight(b) for b in batches]
        (whole,) = replicas.total([sum(weights)])
    return [w / (whole or 1.0) for w in weights]


def own_key(key: Tensor, replicas: Replicas) -> Tensor:
    """The key of a process: other rows need other dropout. The first one's is the key itself."""
    return fold_in(key, f"rank {replicas.rank}") if replicas.rank else key


def averaged(state: TensorDict, weight: float, replicas: Replicas) -> TensorDict:
    """Running statistics as means over the processes, by the rows that each has seen."""
    if replicas.world == 1 or not tree.leaves(state):
        return state
    means = iter(replicas.average(tree.leaves(state), weight))
    return tree.map_leaves(lambda _: next(means), state)


def no_ids(spec: EmbeddingSpec, device: torch.device) -> Ids:
    """The ids of a batch of no rows."""
    none = torch.zeros(0, dtype=torch.int64, device=device)
    return {name: Ragged(none, torch.zeros(1, dtype=torch.int64, device=device)) for name in spec.features}


def packed(leaves: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """All tensors of a dtype in one, for one sum over processes, and the tensors themselves as views of these."""
    views, flats = list(leaves), []
    for dtype in dict.fromkeys(x.dtype for x in leaves):
        own = [i for i, x in enumerate(leaves) if x.dtype == dtype]
        flats.append(torch.cat([leaves[i].reshape(-1) for i in own]))
        for i, part in zip(own, flats[-1].split([leaves[i].numel() for i in own]), strict=True):
            views[i] = part.view(leaves[i].shape)
    return flats, views

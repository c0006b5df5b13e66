"""What a model says of a data set, and how good that is, in one process or in several that share the rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import torch
from torch import Tensor

from funcrec.core.batch import Batch
from funcrec.core.replicas import Replicas
from funcrec.core.rows import cut
from funcrec.metrics import Metric
from funcrec.train.replicas import no_ids
from funcrec.train.state import TrainState
from funcrec.train.step import Step


class Dataset(Protocol):
    """What ``fit`` reads: ``InMemory`` and ``Stream`` of ``funcrec.data``, or anything with this method.

    The batches of one key must always be the same; ``start`` skips that many. Resuming relies on both. Of several
    processes each has a data set of its own, with as many batches as the others': None where it has no rows.
    """

    def batches(
        self, batch_size: int, *, key: Tensor | None = None, start: int = 0, drop_last: bool = False
    ) -> Iterator[Batch | None]: ...


@dataclass(frozen=True, eq=False)
class Part:
    """A process's part of every batch of ``data``: neighbours, as many as any other's up to one."""

    data: Dataset
    rank: int
    world: int

    def batches(
        self, batch_size: int, *, key: Tensor | None = None, start: int = 0, drop_last: bool = False
    ) -> Iterator[Batch | None]:
        """Rows ``[n · rank / world, n · (rank + 1) / world)`` of each batch of n rows; None where there are none."""
        for batch in self.data.batches(batch_size, key=key, start=start, drop_last=drop_last):
            n = 0 if batch is None else len(batch)
            first, last = n * self.rank // self.world, n * (self.rank + 1) // self.world
            yield None if batch is None or first == last else cut(batch, first, last)


def part_of(data: Dataset, replicas: Replicas) -> Dataset:
    """This process's part of a data set that all processes read: ``batch_size`` counts the rows of all together.

    So any number of processes takes the same steps on the same batches. Every process reads all rows and drops most of
    them; where that is too much, give each its own files, in as many batches (``funcrec.shard.together`` pads them).
    """
    return data if replicas.world == 1 else Part(data, replicas.rank, replicas.world)


def predict(step: Step, ts: TrainState, data: Dataset, batch_size: int) -> Iterator[tuple[Batch, Tensor]]:
    """Yield each batch with its logits ``[B, C]``, deterministic, in the order of the data.

    A batch None is left out; a store over many processes looks up nothing for it, which the others wait for.
    """
    for batch in data.batches(batch_size):
        if batch is not None:
            yield batch, step.predict(ts, batch)
        else:
            with torch.no_grad():
                step.store.lookup(ts.tables, no_ids(step.store.spec, ts.key.device))


def probabilities(logits: Tensor) -> Tensor:
    """σ of one logit, ``[B]``; softmax of several, ``[B, C]``."""
    return torch.sigmoid(logits.float().squeeze(-1)) if logits.shape[-1] == 1 else torch.softmax(logits.float(), dim=-1)


def evaluate(
    step: Step,
    ts: TrainState,
    data: Dataset,
    metrics: Mapping[str, Metric],
    batch_size: int = 16384,
    *,
    regression: bool = False,
) -> dict[str, float]:
    """The metrics of a model on a data set; each sees probabilities, labels and sample weights.

    With ``regression`` they see the outputs themselves, ``[B]``, in place of probabilities. Of a step over many
    processes ``data`` is each one's own (:func:`part_of`), and the metrics are those of all rows, the same everywhere.
    """
    states = {name: m.init() for name, m in metrics.items()}
    for batch, logits in predict(step, ts, data, batch_size):
        p, f = logits.float().squeeze(-1) if regression else probabilities(logits), batch.features.to(logits.device)
        for name, m in metrics.items():
            states[name] = m.update(states[name], p, f["label"], f.get("weight", None))
    everybodys = step.replicas.gathered(states)
    return {name: float(m.compute(reduce(m.merge, [own[name] for own in everybodys]))) for name, m in metrics.items()}

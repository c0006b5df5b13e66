"""A small data set with every kind of column, and its rows as comparable values."""

import threading

import torch

from funcrec.core.batch import Batch
from funcrec.core.ragged import Ragged
from funcrec.data import Categorical, Label, Numeric, Range, Schema, Time

N = 103
SCHEMA = Schema(
    columns=(
        Categorical(name="u", encoding=Range(rows=N)),
        Categorical(name="bag", encoding=Range(rows=9), separator="|", weighted=True),
        Numeric(name="x"),
    ),
    label=Label(name="y"),
    time=Time(name="t"),
)


def lines() -> list[str]:
    bags = ["|".join(f"{k % 9}:{k / 2}" for k in range(i, i + i % 4)) for i in range(N)]
    return [f"{i % 2},{i},{bags[i]},{i / 8},{i * i % 50}" for i in range(N)]


def rows_of(batch: Batch) -> list[tuple]:
    """Each row as one comparable value."""
    u, bag, f = batch.ids["u"], batch.ids["bag"], batch.features
    assert isinstance(u, torch.Tensor)
    assert isinstance(bag, Ragged)
    assert bag.weights is not None
    assert (int(bag.offsets[0]), int(bag.offsets[-1])) == (0, len(bag.values))
    sizes = bag.lengths.tolist()
    bags = zip(bag.values.split(sizes), bag.weights.split(sizes), strict=True)
    pairs = [tuple(zip(v.tolist(), w.tolist(), strict=True)) for v, w in bags]
    plain = (u, f["label"], f["dense", "x"][:, 0], f["time"])
    assert len(batch) == len(pairs) == len(u)
    return list(zip(*(c.tolist() for c in plain), pairs, strict=True))


def data_threads() -> int:
    return sum(t.name.startswith("funcrec-data") for t in threading.enumerate())

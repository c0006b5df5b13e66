"""Data with a planted teacher: interactions that are known, and the best AUC that any model can reach.

With category effects w, category vectors u, v and dense features z, the teacher's logit is

    bias + linear * L + pairwise * P + triple * T
    L = Σ_f w_f[x_f] + Σ_d c_d z_d
    P = Σ_{(f, g)} <u_f[x_f], u_g[x_g]>,   T = Σ_{(f, g, h)} Σ_k v_f[x_f]_k v_g[x_g]_k v_h[x_h]_k

where L, P and T are each brought to mean 0 and variance 1 over the drawn rows, so the three factors say how much of the
signal a linear, a pairwise and a third-order model can find. Labels are Bernoulli draws of its sigmoid.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv as pa_csv
import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.batch import Batch
from funcrec.core.errors import ConfigError, fail
from funcrec.core.random import bernoulli, fold_in, normal, uniform
from funcrec.core.rows import cut
from funcrec.data.columns import Categorical, Numeric, Range
from funcrec.data.memory import InMemory
from funcrec.data.schema import Schema
from funcrec.data.targets import Label
from funcrec.data.vocabulary import Vocabularies

_SKEW = 1.5  # categories are floor(n u^1.5): the first ones are several times as frequent as the last
_RANK = 2


class Planted(NamedTuple):
    """Three splits of one draw, their schema, and what the teacher knows.

    ``logits`` and ``best_auc``: by split, the teacher's logits and the AUC of ranking by them. ``pairs`` and
    ``triples``: the fields that interact.
    """

    train: InMemory
    valid: InMemory
    test: InMemory
    schema: Schema
    logits: Mapping[str, Tensor]
    best_auc: Mapping[str, float]
    pairs: tuple[tuple[str, str], ...]
    triples: tuple[tuple[str, str, str], ...]

    def write_csv(self, directory: str | os.PathLike[str], *, compress: bool = False) -> dict[str, str]:
        """Write each split as ``<split>.csv`` (``.csv.gz``), to be read back with ``schema``; the paths by split."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        written = {}
        for split in ("train", "valid", "test"):
            path = str(folder / (f"{split}.csv.gz" if compress else f"{split}.csv"))
            with pa.output_stream(path, compression="gzip" if compress else None) as stream:
                pa_csv.write_csv(_table(getattr(self, split).rows), stream)
            written[split] = path
        return written


def planted(
    key: Tensor,
    rows: int = 300_000,
    *,
    valid_rows: int = 30_000,
    test_rows: int = 30_000,
    categories: Sequence[int] = (6, 8, 10, 12, 14, 16, 20, 24),
    dense: int = 3,
    linear: float = 1.3,
    pairwise: float = 1.0,
    triple: float = 0.25,
    bias: float = -0.5,
) -> Planted:
    """Draw a teacher and its data; the same key gives the same data everywhere.

    Args:
        rows, valid_rows, test_rows: rows of each split.
        categories: table rows of the fields ``f0``, ``f1``, ….
        dense: number of standard normal fields ``x0``, ``x1``, ….
        linear, pairwise, triple: standard deviations of the three parts of the logit.

    Raises:
        ConfigError: fewer than three fields, or an empty split.
    """
    names = [f"f{i}" for i in range(len(categories))]
    if len(names) < 3 or min(categories) < 2:
        fail(
            ConfigError,
            "planted: categories",
            got=tuple(categories),
            expected="three fields or more, of 2 rows or more",
        )
    splits = {"train": rows, "valid": valid_rows, "test": test_rows}
    if min(splits.values()) < 1:
        fail(ConfigError, "planted: rows", got=splits, expected="at least one row in each split")

    n = sum(splits.values())
    sizes = dict(zip(names, categories, strict=True))
    ids = {f: (uniform(fold_in(key, f), n, dtype=torch.float64) ** _SKEW * c).long() for f, c in sizes.items()}
    numbers = {f"x{i}": normal(fold_in(key, f"x{i}"), n, dtype=torch.float32) for i in range(dense)}
    # Every third pair interacts, so a model has something to ignore; the first fields also do in threes.
    pairs = tuple(combinations(names, 2))[::3]
    triples = tuple(zip(names[:2], names[1:3], names[2:4], strict=False))
    first = _standard(_linear(fold_in(key, "linear"), ids, numbers, sizes))
    second = _standard(_products(fold_in(key, "pairwise"), ids, sizes, pairs))
    third = _standard(_products(fold_in(key, "triple"), ids, sizes, triples))
    logits = bias + linear * first + pairwise * second + triple * third
    label = bernoulli(fold_in(key, "label"), torch.sigmoid(logits), n).float()

    columns = [Categorical(name=f, encoding=Range(rows=c)) for f, c in sizes.items()]
    schema = Schema(columns=(*columns, *(Numeric(name=x) for x in numbers)), label=Label(name="label"))
    features: dict[str, Tensor | TensorDict] = {"label": label}
    if numbers:
        features["dense"] = TensorDict({x: z[:, None] for x, z in numbers.items()}, batch_size=[n])
    whole = Batch(dict(ids), TensorDict(dict(sorted(features.items())), batch_size=[n]))
    fields = schema.fields(Vocabularies())
    parts: dict[str, InMemory] = {}
    truth: dict[str, Tensor] = {}
    start = 0
    for split, size in splits.items():
        parts[split] = InMemory(rows=cut(whole, start, start + size), fields=fields)
        truth[split] = logits[start : start + size]
        start += size
    best = {split: _auc(truth[split], parts[split].rows.features["label"]) for split in splits}
    return Planted(**parts, schema=schema, logits=truth, best_auc=best, pairs=pairs, triples=triples)


def _linear(key: Tensor, ids: Mapping[str, Tensor], numbers: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Tensor:
    effects = [normal(fold_in(key, f), sizes[f], dtype=torch.float64)[x] for f, x in ids.items()]
    slopes = [normal(fold_in(key, f), dtype=torch.float64) * z.double() for f, z in numbers.items()]
    return torch.stack(effects + slopes).sum(0)


def _products(
    key: Tensor, ids: Mapping[str, Tensor], sizes: Mapping[str, int], combined: Sequence[tuple[str, ...]]
) -> Tensor:
    vectors = {f: uniform(fold_in(key, f), (sizes[f], _RANK), -1.0, 1.0, dtype=torch.float64) for f in sizes}
    looked_up = {f: vectors[f][ids[f]] for f in sizes}
    return torch.stack([torch.stack([looked_up[f] for f in fs]).prod(0).sum(1) for fs in combined]).sum(0)


def _standard(part: Tensor) -> Tensor:
    return (part - part.mean()) / part.std(correction=0).clamp_min(1e-12)


def _auc(scores: Tensor, labels: Tensor) -> float:
    """The share of (positive, negative) pairs in the right order, ties counted half; NaN with one class only."""
    _, where, counts = scores.unique(return_inverse=True, return_counts=True)
    middle = counts.cumsum(0).double() - (counts.double() - 1) / 2
    positive = labels > 0.5
    p = int(positive.sum())
    wins = float(middle[where][positive].sum()) - p * (p + 1) / 2
    return wins / (p * (len(labels) - p)) if 0 < p < len(labels) else float("nan")


def _table(rows: Batch) -> pa.Table:
    columns = {"label": rows.features["label"].to(torch.int8).numpy()}
    columns |= {f: x.numpy() for f, x in rows.ids.items() if isinstance(x, Tensor)}
    dense = rows.features.get("dense", None)
    return pa.table(columns | ({} if dense is None else {f: z[:, 0].numpy() for f, z in dense.items()}))

"""Checked columns to a batch of tensors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.batch import Batch
from funcrec.core.ragged import Nested, Ragged
from funcrec.data.columns import Bucketised, Categorical, Hash, Numeric, Range
from funcrec.data.hashing import hash_texts
from funcrec.data.parse import Parsed, Tokens
from funcrec.data.schema import Schema
from funcrec.data.vocabulary import Vocabularies


def encode(schema: Schema, vocabularies: Vocabularies, rows: Parsed) -> Batch:
    """The batch of these rows: ids by field; ``dense``, ``length``, ``label``, ``weight``, ``time`` if there are any.

    Raises:
        ConfigError: the vocabularies lack a field of the schema.
    """
    ids: dict[str, Tensor | Ragged | Nested] = {}
    dense: dict[str, Tensor] = {}
    length: dict[str, Tensor] = {}
    for column in schema.columns:
        if isinstance(column, Categorical):
            ids[column.name] = x = _categorical(column, vocabularies, rows.tokens[column.name])
            if column.sequence and not isinstance(x, Tensor):
                length[column.name] = x.lengths
        elif isinstance(column, Bucketised):
            ids[column.name] = _buckets(vocabularies.edges(column), rows.numbers[column.name][:, 0])
        else:
            dense[column.name] = _dense(column, vocabularies, rows.numbers[column.name])
    kinds = {"label": torch.float32, "weight": torch.float32, "time": torch.float64}
    features: dict[str, Tensor | TensorDict] = {k: torch.tensor(v, dtype=kinds[k]) for k, v in rows.targets.items()}
    for name, part in (("dense", dense), ("length", length)):
        if part:
            features[name] = TensorDict(dict(sorted(part.items())), batch_size=[rows.n])
    return Batch(ids, TensorDict(dict(sorted(features.items())), batch_size=[rows.n]))


def _categorical(column: Categorical, vocabularies: Vocabularies, tokens: Tokens) -> Tensor | Ragged | Nested:
    encoding = column.encoding
    if isinstance(encoding, Range):
        ids = _range(encoding, tokens.values)
    elif isinstance(encoding, Hash):
        ids = _by_distinct(tokens.values, lambda texts: _buckets_of_hash(encoding, texts))
    else:
        ids = _by_distinct(tokens.values, lambda texts: vocabularies.ids(column, texts))
    values = torch.from_numpy(ids)
    if tokens.lengths is None:
        return values
    weights = None if tokens.weights is None else torch.tensor(tokens.weights, dtype=torch.float32)
    ragged = Ragged.from_lengths(values, torch.from_numpy(tokens.lengths), weights)
    return ragged if tokens.steps is None else Nested.from_lengths(ragged, torch.from_numpy(tokens.steps))


def _by_distinct(texts: pa.StringArray, ids_of: Callable[[pa.StringArray], np.ndarray]) -> np.ndarray:
    """The ids of all texts, computed once for each distinct one (null included)."""
    coded = texts.dictionary_encode(null_encoding="encode")
    return ids_of(coded.dictionary).astype(np.int64)[coded.indices.to_numpy()]


def _buckets_of_hash(encoding: Hash, texts: pa.StringArray) -> np.ndarray:
    bucket = (hash_texts(texts, encoding.salt) % np.uint64(encoding.buckets)).astype(np.int64)
    return np.where(pc.is_null(texts).to_numpy(zero_copy_only=False), 0, bucket + 1)


def _range(encoding: Range, values: pa.Array) -> np.ndarray:
    # Unknown rows exist only where integers out of range have a row of their own, after all others.
    known = pc.and_(pc.greater_equal(values, encoding.offset), pc.less(values, encoding.offset + encoding.rows))
    ids = pc.fill_null(values, 0).to_numpy(zero_copy_only=False) - encoding.offset
    return np.where(pc.fill_null(known, False).to_numpy(zero_copy_only=False), ids, encoding.rows)


def _buckets(edges: tuple[float, ...], x: np.ndarray) -> Tensor:
    bucket = np.searchsorted(np.array(edges), x, side="right") + 1
    return torch.from_numpy(np.where(np.isnan(x), 0, bucket))


def _dense(column: Numeric, vocabularies: Vocabularies, x: np.ndarray) -> Tensor:
    moments = vocabularies.moments_of(column.name) if column.transform == "standardize" else None
    if column.missing is not None:
        stand_in = moments.mean if moments is not None and column.missing == "mean" else column.missing
        x = np.where(np.isnan(x), stand_in, x)
    if moments is not None:
        x = (x - moments.mean) / moments.std
    elif column.transform != "none":
        x = _LOGARITHMS[column.transform](x)
    return torch.tensor(x, dtype=torch.float32)


_LOGARITHMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log1p": np.log1p,
    "log1p_clip": lambda x: np.log1p(np.maximum(x, 0.0)),
    "log_plus3": lambda x: np.log(x + 3.0),
}

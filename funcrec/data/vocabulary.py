"""What a schema learns from training data: vocabularies, bucket boundaries, means and deviations.

A value to keep beside a checkpoint: it saves to a pair of files and knows its own fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from funcrec.core.errors import ConfigError, DataError, fail
from funcrec.data.columns import Bucketised, Categorical
from funcrec.data.hashing import Index

T = TypeVar("T")

_TEXTS, _NUMBERS = "vocabulary.parquet", "vocabulary.json"


class Moments(NamedTuple):
    """Mean and population standard deviation of the cells that are not empty (std 1 of a constant column)."""

    mean: float
    std: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabularies:
    """By field name: tokens in the order of their ids from 1 (null being the empty cell), boundaries, moments."""

    tokens: Mapping[str, pa.StringArray] = field(default_factory=dict)
    boundaries: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    moments: Mapping[str, Moments] = field(default_factory=dict)

    def vocabulary(self, column: Categorical) -> pa.StringArray:
        """The tokens of a field, or of the field whose vocabulary it shares."""
        return _learnt(self.tokens, column.shares or column.name, "vocabulary")

    def edges(self, column: Bucketised) -> tuple[float, ...]:
        return column.boundaries or _learnt(self.boundaries, column.name, "boundaries")

    def moments_of(self, name: str) -> Moments:
        return _learnt(self.moments, name, "mean and deviation")

    def ids(self, column: Categorical, texts: pa.StringArray) -> np.ndarray:
        """int64 ``[n]``: 1 + the token's rank, 0 for a token that the vocabulary does not have."""
        self.vocabulary(column)
        index, null_id = self._indices[column.shares or column.name]
        return np.where(pc.is_null(texts).to_numpy(zero_copy_only=False), null_id, index.positions(texts) + 1)

    @cached_property
    def _indices(self) -> dict[str, tuple[Index, int]]:
        nulls = {
            name: pc.index_in(pa.scalar(None, pa.string()), value_set=t).as_py() for name, t in self.tokens.items()
        }
        return {name: (Index(t), 0 if nulls[name] is None else nulls[name] + 1) for name, t in self.tokens.items()}

    def fingerprint(self) -> str:
        """A hash of everything in it, the same in every process."""
        digest = hashlib.sha256(self._numbers().encode())
        for name in sorted(self.tokens):
            texts = self.tokens[name]
            lengths = pc.fill_null(pc.binary_length(texts), -1).to_numpy(zero_copy_only=False).astype("<i8")
            digest.update(json.dumps([name, len(texts)]).encode() + lengths.tobytes())
            digest.update("".join(t or "" for t in texts.to_pylist()).encode())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabularies) and self.fingerprint() == other.fingerprint()

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def _numbers(self) -> str:
        boundaries = {name: list(b) for name, b in self.boundaries.items()}
        moments = {name: list(m) for name, m in self.moments.items()}
        return json.dumps({"boundaries": boundaries, "moments": moments}, sort_keys=True)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write ``vocabulary.parquet`` (the tokens) and ``vocabulary.json`` (the rest, and the fingerprint)."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        names = [pa.array([name] * len(self.tokens[name]), pa.string()) for name in sorted(self.tokens)]
        texts = [self.tokens[name] for name in sorted(self.tokens)]
        schema = pa.schema([("field", pa.string()), ("token", pa.string())])
        table = pa.Table.from_arrays(
            [pa.chunked_array(names, pa.string()), pa.chunked_array(texts, pa.string())], schema=schema
        )
        document = json.loads(self._numbers()) | {"fields": sorted(self.tokens), "fingerprint": self.fingerprint()}
        # Each file appears whole or not at all, the one with the fingerprint last.
        pq.write_table(table, folder / f"{_TEXTS}.part", compression="zstd")
        os.replace(folder / f"{_TEXTS}.part", folder / _TEXTS)
        (folder / f"{_NUMBERS}.part").write_text(json.dumps(document, indent=1))
        os.replace(folder / f"{_NUMBERS}.part", folder / _NUMBERS)

    @staticmethod
    def load(directory: str | os.PathLike[str]) -> Vocabularies:
        """The value that was saved there.

        Raises:
            DataError: a file is lacking or damaged, or the two do not belong together.
        """
        folder = Path(directory)
        try:
            document = json.loads((folder / _NUMBERS).read_text())
            table = pq.read_table(folder / _TEXTS, use_threads=False)
            tokens = {name: _texts_of(table, name) for name in document["fields"]}
            boundaries = {name: tuple(b) for name, b in document["boundaries"].items()}
            moments = {name: Moments(*m) for name, m in document["moments"].items()}
            found = Vocabularies(tokens=tokens, boundaries=boundaries, moments=moments)
        except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
            fail(DataError, f"vocabularies in {folder}: cannot be read", got=f"{type(error).__name__}: {error}")
        if found.fingerprint() != document["fingerprint"]:
            got, expected = found.fingerprint(), document["fingerprint"]
            fail(DataError, f"vocabularies in {folder}: fingerprint", got=got, expected=expected, fix="save them again")
        return found


def _texts_of(table: pa.Table, name: str) -> pa.StringArray:
    chunks = table.filter(pc.equal(table["field"], name))["token"].combine_chunks()
    return chunks if isinstance(chunks, pa.StringArray) else pa.concat_arrays(chunks.chunks)


def _learnt(values: Mapping[str, T], name: str, what: str) -> T:
    if name not in values:
        fail(ConfigError, f"field {name!r}: {what}", got="not learnt", fix="pass what learn(schema, source) returned")
    return values[name]

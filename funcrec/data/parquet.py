"""Parquet files as a stream of chunks of typed columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from funcrec.data.chunk import Chunk, Selects, reading


@dataclass(frozen=True, kw_only=True)
class Parquet:
    """``chunk_rows``: rows held at once."""

    chunk_rows: int = 1 << 16


def read_parquet(file: str, layout: Parquet, schema: Selects) -> Iterator[Chunk]:
    """The file's rows, with the schema's columns only.

    Raises:
        DataError: the file is lacking, empty or damaged, or its columns are not the schema's.
    """
    with reading(file), pq.ParquetFile(file) as parquet:
        wanted = schema.select(file, parquet.schema_arrow.names)
        seen = 0
        for table in parquet.iter_batches(layout.chunk_rows, columns=wanted, use_threads=False):
            numbers = np.arange(seen, seen + table.num_rows) + 1
            seen += table.num_rows
            yield Chunk(file, table, numbers, "row")

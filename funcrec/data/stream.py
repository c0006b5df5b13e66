"""A dataset that need not fit into memory: read anew for each pass, shuffled within windows, made ahead by threads."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field

from torch import Tensor

from funcrec.core.batch import Batch
from funcrec.core.errors import ConfigError, fail
from funcrec.core.random import fold_in, permutation
from funcrec.core.rows import regroup, select
from funcrec.data.chunk import BadRow, BadRows, Chunk
from funcrec.data.encode import encode
from funcrec.data.memory import check_pass
from funcrec.data.parse import parse
from funcrec.data.prefetch import ordered_map, prefetch
from funcrec.data.schema import Fields, Schema
from funcrec.data.source import Source
from funcrec.data.vocabulary import Vocabularies

_AHEAD = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """Rows read from files pass by pass, with the batches of :class:`InMemory`.

    A key permutes the files, then the rows within each ``window`` of them: with small windows rows of one place stay
    close together. Held in memory: two windows, the chunks at hand, the batches made ahead.

    Args:
        window: rows that are shuffled together.
        workers: 0 reads in the caller's thread; 1 in one thread ahead of it; more encode chunks in so many threads.
        bad_rows: how many bad rows to leave out; none if not given.
    """

    schema: Schema
    source: Source
    vocabularies: Vocabularies = field(default_factory=Vocabularies)
    window: int = 1 << 16
    workers: int = 1
    bad_rows: BadRows = field(default_factory=BadRows)

    def __post_init__(self) -> None:
        if self.window < 1:
            fail(ConfigError, "stream: window", got=self.window, expected="at least 1")
        if self.workers < 0:
            fail(ConfigError, "stream: workers", got=self.workers, expected="at least 0")

    @property
    def fields(self) -> Fields:
        return self.schema.fields(self.vocabularies)

    def batches(
        self, batch_size: int, *, key: Tensor | None = None, start: int = 0, drop_last: bool = False
    ) -> Iterator[Batch]:
        """One pass in the order that ``key`` alone decides (given files, window); in the files' order without one.

        Args:
            start: the number of the first batch to give: with the same key, the rest of an interrupted pass. The
                batches before it are read and thrown away.
            drop_last: leave out a last batch of fewer rows.

        Raises:
            DataError: bad data (see :class:`BadRows`), as late as at its batch.
            ConfigError: a batch size below 1, or a start beyond the pass.
        """
        check_pass(batch_size, start)
        made = self._batches(batch_size, None if key is None else key.cpu(), start, drop_last)
        return made if self.workers == 0 else prefetch(made, _AHEAD)

    def _batches(self, size: int, key: Tensor | None, start: int, drop_last: bool) -> Generator[Batch]:
        number = 0
        for batch in regroup(self._windows(key), size):
            if drop_last and len(batch) < size:
                break
            if number >= start:
                yield batch
            number += 1
        if start > number:
            fail(ConfigError, "batches: start", got=start, expected=f"at most {number}, the number of batches")

    def _windows(self, key: Tensor | None) -> Iterator[Batch]:
        windows = regroup(self._encoded(key), self.window)
        if key is None:
            yield from windows
            return
        row_key = fold_in(key, "rows")
        for number, batch in enumerate(windows):
            yield select(batch, permutation(fold_in(row_key, number), len(batch)))

    def _encoded(self, key: Tensor | None) -> Iterator[Batch]:
        files = self.source.files()
        if key is not None:
            files = tuple(files[i] for i in permutation(fold_in(key, "files"), len(files)).tolist())
        pieces = (piece for chunk in self.source.chunks(self.schema, files) for piece in chunk.pieces(self.window))
        if self.workers < 2:
            made = (self._encode(piece) for piece in pieces)
        else:
            made = ordered_map(self._encode, pieces, self.workers)
        # Closed here, also when a bad row raises: else the threads live as long as the error's traceback.
        with closing(made):
            for batch, bad in made:
                self.bad_rows.add(bad)
                yield batch

    def _encode(self, chunk: Chunk) -> tuple[Batch, tuple[BadRow, ...]]:
        rows, bad = parse(self.schema, chunk)
        return encode(self.schema, self.vocabularies, rows), bad

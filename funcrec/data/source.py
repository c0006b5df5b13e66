"""Where rows come from: many files of one format, as one stream of chunks."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from funcrec.core.errors import ConfigError, DataError, fail
from funcrec.data.chunk import Chunk, Selects
from funcrec.data.delimited import Csv, read_csv
from funcrec.data.join import Join, Joined, add_columns, read_side
from funcrec.data.libsvm import Libsvm, read_libsvm
from funcrec.data.parquet import Parquet, read_parquet
from funcrec.data.schema import Schema

Format = Csv | Parquet | Libsvm

_BY_SUFFIX: dict[str, Format] = {
    "csv": Csv(),
    "tsv": Csv(delimiter="\t", quote=None),
    "parquet": Parquet(),
    "pq": Parquet(),
    "libsvm": Libsvm(),
    "svm": Libsvm(),
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Files, directories and glob patterns, read in sorted order.

    Without a ``format`` it follows from each file's name: csv, tsv, parquet (pq) or libsvm (svm), the text formats
    also compressed (.gz, .zst, .bz2). Files of a directory whose names start with ``.`` or ``_`` are left out.
    ``joins`` add the columns of side files, in their order.
    """

    paths: tuple[str, ...]
    format: Format | None = None
    joins: tuple[Join, ...] = ()

    def __post_init__(self) -> None:
        paths = (self.paths,) if isinstance(self.paths, str | os.PathLike) else tuple(self.paths)
        object.__setattr__(self, "paths", tuple(os.fspath(p) for p in paths))
        object.__setattr__(self, "joins", tuple(self.joins))
        if not self.paths:
            fail(ConfigError, "source: paths", got="none", expected="at least one file, directory or pattern")

    def files(self) -> tuple[str, ...]:
        """The files there are now, each once.

        Raises:
            DataError: a path or pattern that names no file.
        """
        found: set[str] = set()
        for path in self.paths:
            if os.path.isdir(path):
                matches = [os.path.join(path, n) for n in os.listdir(path) if not n.startswith((".", "_"))]
            else:
                matches = [path] if os.path.exists(path) else glob.glob(path, recursive=True)
            matches = [m for m in matches if os.path.isfile(m)]
            if not matches:
                fail(
                    DataError, f"source {path!r}", got="no files", expected="a file, a directory of files or a pattern"
                )
            found.update(matches)
        return tuple(sorted(found))

    def chunks(self, schema: Schema, files: Sequence[str] | None = None) -> Iterator[Chunk]:
        """The rows of these files (all, if not given), file after file."""
        # The side files once a pass: a source is a value, and holds nothing.
        sides = [read_side(j, Source(paths=(j.path,), format=j.format)._read(j)) for j in self.joins]
        for chunk in self._read(Joined(schema, self.joins) if sides else schema, files):
            for side in sides:
                chunk = add_columns(chunk, side)
            yield chunk

    def _read(self, schema: Selects, files: Sequence[str] | None = None) -> Iterator[Chunk]:
        for file in self.files() if files is None else files:
            layout = self.format or _guess(file)
            if isinstance(layout, Csv):
                yield from read_csv(file, layout, schema)
            elif isinstance(layout, Parquet):
                yield from read_parquet(file, layout, schema)
            else:
                yield from read_libsvm(file, layout, schema)


def _guess(file: str) -> Format:
    parts = [p for p in os.path.basename(file).lower().split(".") if p not in ("gz", "zst", "bz2")]
    if parts[-1] not in _BY_SUFFIX:
        fail(
            DataError,
            f"{file}: format",
            expected=f"a name that ends with one of {list(_BY_SUFFIX)}",
            fix="give a format",
        )
    return _BY_SUFFIX[parts[-1]]

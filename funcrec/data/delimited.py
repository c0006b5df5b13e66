"""Delimited text, plain or compressed, as a stream of chunks of strings.

Every cell is read as text: what it means is the schema's affair, not a guess from the first rows.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from funcrec.core.errors import ConfigError, DataError, fail
from funcrec.data.chunk import BadRow, Chunk, Selects, reading

_COMPRESSION = {"gz": "gzip", "zst": "zstd", "bz2": "bz2"}
_FIRST_LINE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Csv:
    """How a text file is cut into cells. One line is one row: cells with line breaks are not supported.

    Args:
        delimiter: one character.
        names: the columns, for files without a header; or what the header has to say.
        header: True, False, or ``"detect"``: the first line is a header if it equals ``names``. Left out, there is one
            if there are no ``names``.
        quote: the quoting character, or None where quotes are plain text.
        strip: drop white space around cells.
        block_bytes: text held at once; a line has to fit into it.
    """

    delimiter: str = ","
    names: tuple[str, ...] | None = None
    header: bool | Literal["detect"] | None = None
    quote: str | None = '"'
    strip: bool = False
    block_bytes: int = 1 << 22

    def __post_init__(self) -> None:
        if self.names is not None:
            object.__setattr__(self, "names", tuple(self.names))
        if len(self.delimiter) != 1 or (self.quote is not None and len(self.quote) != 1):
            fail(
                ConfigError, "Csv: delimiter and quote", got=(self.delimiter, self.quote), expected="one character each"
            )
        if self.names is None and self.header not in (None, True):
            fail(ConfigError, "Csv: header", got=self.header, expected="names for files without a header")
        if self.block_bytes < 1:
            fail(ConfigError, "Csv: block_bytes", got=self.block_bytes, expected="a positive number")


def open_text(file: str) -> pa.NativeFile:
    """The file's bytes, decompressed by what its name ends with."""
    return pa.input_stream(file, compression=_COMPRESSION.get(file.rsplit(".", 1)[-1]))


def read_csv(file: str, layout: Csv, schema: Selects) -> Iterator[Chunk]:
    """The file's rows that split into the right number of cells; the others in ``Chunk.bad``.

    Lines without any text in their cells are dropped.

    Raises:
        DataError: the file is lacking, empty, damaged, not UTF-8, or its columns are not the schema's.
    """
    with reading(file):
        names, header, has_rows = _columns(file, layout)
        wanted = schema.select(file, names)
        invalid: list[pa_csv.InvalidRow] = []

        def skip(row: pa_csv.InvalidRow) -> str:
            invalid.append(row)
            return "skip"

        if not has_rows:
            return
        options = {
            "read_options": pa_csv.ReadOptions(
                column_names=names, skip_rows=int(header), block_size=layout.block_bytes, use_threads=False
            ),
            "parse_options": pa_csv.ParseOptions(
                delimiter=layout.delimiter,
                quote_char=layout.quote or False,
                ignore_empty_lines=False,
                invalid_row_handler=skip,
            ),
            # All columns, also those that are not wanted: a line is blank only if all of its cells are.
            "convert_options": pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        }
        seen = reported = 0
        with open_text(file) as stream, pa_csv.open_csv(stream, **options) as reader:
            for table in reader:
                if table.num_rows == 0:
                    continue
                numbers = _lines(np.arange(seen, seen + table.num_rows), int(header), invalid)
                above = [row for row in invalid[reported:] if row.number < numbers[-1]]
                seen, reported = seen + table.num_rows, reported + len(above)
                chunk = _without_blanks(Chunk(file, table, numbers, "line", _bad(file, above)))
                yield chunk._replace(table=_stripped(chunk.table.select(wanted), layout.strip))
        if below := invalid[reported:]:
            nothing = pa.RecordBatch.from_pydict({name: pa.array([], pa.string()) for name in wanted})
            yield Chunk(file, nothing, np.arange(0), "line", _bad(file, below))


def _columns(file: str, layout: Csv) -> tuple[list[str], bool, bool]:
    """The column names, whether the first line is a header, and whether anything follows it."""
    with open_text(file) as stream:
        start = stream.read(_FIRST_LINE)
    if not start.strip():
        fail(DataError, f"{file}: empty file", expected="at least one row")
    line, _, rest = start.partition(b"\n")
    if layout.names is not None and layout.header in (None, False):
        return list(layout.names), False, True
    text = line.decode("utf-8-sig", errors="replace").rstrip("\r")
    if layout.quote is None:
        cells = text.split(layout.delimiter)
    else:
        cells = next(csv.reader([text], delimiter=layout.delimiter, quotechar=layout.quote), [])
    cells = [c.strip() for c in cells] if layout.strip else cells
    if layout.names is None:
        return cells, True, bool(rest)
    found = cells == list(layout.names)
    if layout.header is True and not found:
        fail(DataError, f"{file}: header", got=cells, expected=list(layout.names))
    return list(layout.names), found, bool(rest) or not found


def _lines(valid: np.ndarray, header: int, invalid: list[pa_csv.InvalidRow]) -> np.ndarray:
    """The line of the n-th valid row for each n, given the rows that were left out so far."""
    left_out = np.array([row.number for row in invalid], dtype=np.int64)
    # How many valid rows come before each of those: its line less the header and the left out lines above it.
    before = left_out - 1 - header - np.arange(len(left_out))
    return valid + 1 + header + np.searchsorted(before, valid, side="right")


def _bad(file: str, rows: list[pa_csv.InvalidRow]) -> tuple[BadRow, ...]:
    def message(row: pa_csv.InvalidRow) -> str:
        return f"{file} line {row.number}: got {row.actual_columns} columns, expected {row.expected_columns}"

    return tuple(BadRow(file, row.number, message(row)) for row in rows)


def _without_blanks(chunk: Chunk) -> Chunk:
    """Without the blank lines, which Arrow gives as rows of empty cells; in a file of one column they are cells."""
    if chunk.table.num_columns == 1:
        return chunk
    blank = np.ones(chunk.table.num_rows, dtype=bool)
    for column in chunk.table.columns:
        blank &= pc.equal(column, "").to_numpy(zero_copy_only=False)
        if not blank.any():
            return chunk
    return chunk.filter(~blank)


def _stripped(table: pa.RecordBatch, strip: bool) -> pa.RecordBatch:
    if not strip:
        return table
    return pa.RecordBatch.from_arrays([pc.utf8_trim_whitespace(c) for c in table.columns], names=table.schema.names)

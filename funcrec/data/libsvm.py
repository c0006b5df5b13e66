"""LibSVM text (``label index:value index:value ...``) as chunks of two text columns.

The second column is a weighted bag: read it with
``Categorical(name="features", separator=" ", weighted=True, encoding=Range(rows=...))``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from funcrec.core.errors import DataError, fail
from funcrec.data.chunk import Chunk, Selects, reading
from funcrec.data.delimited import open_text


@dataclass(frozen=True, kw_only=True)
class Libsvm:
    """The names given to the two columns; ``block_bytes`` of text are held at once."""

    label: str = "label"
    features: str = "features"
    block_bytes: int = 1 << 22


def read_libsvm(file: str, layout: Libsvm, schema: Selects) -> Iterator[Chunk]:
    """The file's rows, without comments (``# ...``) and blank lines.

    Raises:
        DataError: the file is lacking, empty, damaged or not UTF-8, or its columns are not the schema's.
    """
    wanted = schema.select(file, (layout.label, layout.features))
    options = {
        "read_options": pa_csv.ReadOptions(column_names=["line"], block_size=layout.block_bytes, use_threads=False),
        # A delimiter that texts do not have: a row is the whole line.
        "parse_options": pa_csv.ParseOptions(delimiter="\x01", quote_char=False, ignore_empty_lines=False),
        "convert_options": pa_csv.ConvertOptions(column_types={"line": pa.string()}, strings_can_be_null=False),
    }
    with reading(file):
        with open_text(file) as stream:
            if not stream.read(1):
                fail(DataError, f"{file}: empty file", expected="at least one row")
        seen = 0
        with open_text(file) as stream, pa_csv.open_csv(stream, **options) as reader:
            for table in reader:
                numbers = np.arange(seen, seen + table.num_rows) + 1
                seen += table.num_rows
                yield _split(file, table.column("line"), numbers, layout, wanted)


def _split(file: str, lines: pa.StringArray, numbers: np.ndarray, layout: Libsvm, wanted: list[str]) -> Chunk:
    text = pc.replace_substring_regex(lines, r"#.*$", "")
    text = pc.utf8_trim_whitespace(pc.replace_substring_regex(text, r"\s+", " "))
    keep = pc.not_equal(text, "")
    # A space at the end, so that a label alone splits in two as well.
    parts = pc.split_pattern(pc.binary_join_element_wise(text.filter(keep), "", " "), " ", max_splits=1)
    names = [layout.label, layout.features]
    table = pa.RecordBatch.from_arrays(
        [pc.list_element(parts, 0), pc.utf8_rtrim_whitespace(pc.list_element(parts, 1))], names
    )
    return Chunk(file, table.select(wanted), numbers[keep.to_numpy(zero_copy_only=False)], "line")

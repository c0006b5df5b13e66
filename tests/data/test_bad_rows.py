"""Bad cells: found by file, line, column and value; skipped and counted as far as allowed, the same in each pass."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funcrec.core.errors import ConfigError, DataError
from funcrec.data import (
    BadRows,
    Bucketised,
    Categorical,
    Csv,
    Label,
    Numeric,
    Range,
    Schema,
    Source,
    Stream,
    Time,
    Vocabularies,
    Weight,
    learn,
    load,
)
from funcrec.data.chunk import BadRow
from funcrec.data.schema import Column

COLUMNS: dict[str, Column] = {
    "number": Numeric(name="a"),
    "optional": Numeric(name="a", missing=0.0),
    "log1p": Numeric(name="a", transform="log1p"),
    "log_plus3": Numeric(name="a", transform="log_plus3"),
    "pair": Numeric(name="a", width=2, separator="|"),
    "bucket": Bucketised(name="a", boundaries=(0.0,)),
    "range": Categorical(name="a", encoding=Range(rows=5, offset=1)),
    "oov": Categorical(name="a", encoding=Range(rows=5, out_of_range="oov")),
    "bag": Categorical(name="a", encoding=Range(rows=5), separator="|"),
    "texts": Categorical(name="a", separator="|"),
    "weighted": Categorical(name="a", encoding=Range(rows=5), separator="|", weighted=True),
    "square": Categorical(name="a", derive="log_square"),
    "hour": Categorical(name="a", derive="yymmddhh_hour"),
}
NUMBER, FINITE = "a number, not an empty cell", "a finite number"
CASES = [
    ("number", "1.5", "x", FINITE),
    ("number", "1", "", NUMBER),
    ("number", "-1e3", "nan", FINITE),
    ("number", "0", "inf", FINITE),
    ("number", "0", "-Infinity", FINITE),
    ("number", "0", "1e39", FINITE),
    ("number", "0", " 1", FINITE),
    ("optional", "", "?", FINITE),
    ("log1p", "0", "-1", "a number above -1 (log1p)"),
    ("log_plus3", "-2", "-3", "a number above -3 (log_plus3)"),
    ("pair", "1|2", "1", "2 finite numbers"),
    ("pair", "1|2", "1|x", "2 finite numbers"),
    ("pair", "1|2", "1|2|3", "2 finite numbers"),
    ("pair", "1|2", "", NUMBER),
    ("bucket", "", "low", FINITE),
    ("range", "5", "6", "an integer in [1, 6)"),
    ("range", "1", "0", "an integer in [1, 6)"),
    ("range", "1", "", "an integer in [1, 6)"),
    ("range", "1", "2.5", "an integer in [1, 6)"),
    ("range", "1", "99999999999999999999", "an integer in [1, 6)"),
    ("oov", "7", "seven", "an integer"),
    ("bag", "0|4", "0|5", "an integer in [0, 5)"),
    ("bag", "", "1|", "items that are not empty"),
    ("texts", "x|y", "x||y", "items that are not empty"),
    ("weighted", "1:2|3:0.5", "1:2|3", "items key:weight with finite weights"),
    ("weighted", "1:2", "1:two", "items key:weight with finite weights"),
    ("weighted", "1:-2", "1:nan", "items key:weight with finite weights"),
    ("weighted", "", "1:", "items key:weight with finite weights"),
    ("weighted", "4:1", "5:1", "an integer in [0, 5)"),
    ("square", "", "3.0", "an integer"),
    ("hour", "14102123", "14102124", "a date and hour YYMMDDHH"),
    ("hour", "16022900", "15022900", "a date and hour YYMMDDHH"),
    ("hour", "14123100", "14130100", "a date and hour YYMMDDHH"),
    ("hour", "", "2014102100", "a date and hour YYMMDDHH"),
]


@pytest.mark.parametrize(("kind", "good", "bad", "expected"), CASES)
def test_a_bad_cell_is_named_and_can_be_skipped(tmp_path: Path, kind: str, good: str, bad: str, expected: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f"y,a\n1,{good}\n0,{good}\n1,{bad}\n1,{good}\n")
    schema = Schema(columns=(COLUMNS[kind],), label=Label(name="y"))
    source = Source(paths=(str(file),))
    got = "None" if bad == "" else f"'{bad}'"
    message = f"a.csv line 4: column 'a': got {got}, expected {expected}"
    with pytest.raises(DataError, match=re.escape(message)):
        learn(schema, source)
    skipped = BadRows(limit=1)
    vocabularies = learn(schema, source, bad_rows=skipped)
    data = load(schema, source, vocabularies, bad_rows=skipped)
    assert data.rows.features["label"].tolist() == [1, 0, 1]
    assert skipped.count == 1
    clean = tmp_path / "clean.csv"
    clean.write_text(f"y,a\n1,{good}\n0,{good}\n1,{good}\n")
    assert learn(schema, Source(paths=(str(clean),))) == vocabularies


@pytest.mark.parametrize(
    ("target", "good", "bad", "expected"),
    [
        (Label(name="t"), "1", "2", "a label of 0 or 1"),
        (Label(name="t"), "0.0", "0.5", "a label of 0 or 1"),
        (Label(name="t"), "0", "", NUMBER),
        (Label(name="t", threshold=3), "4", "four", FINITE),
        (Label(name="t", threshold=3), "4", "", NUMBER),
        (Label(name="t", binary=False), "4.5", "nan", FINITE),
        (Label(name="t", positive=("yes",)), "no", "", "a label"),
        (Label(name="t", positive=("yes",), negative=("no",)), "no", "No", "one of \\['yes', 'no'\\]"),
        (Weight(name="t"), "0", "-0.5", "a weight of at least 0"),
        (Weight(name="t"), "2", "inf", FINITE),
        (Weight(name="t"), "2", "", NUMBER),
        (Time(name="t"), "881250949", "yesterday", FINITE),
        (Time(name="t"), "881250949", "", NUMBER),
    ],
)
def test_bad_labels_weights_and_times_are_named(tmp_path: Path, target, good: str, bad: str, expected: str) -> None:
    (tmp_path / "a.tsv").write_text(f"a\tt\n1\t{good}\n1\t{bad}\n")
    role = type(target).__name__.lower()
    schema = Schema(columns=(COLUMNS["number"],), **{role: target})
    got = "None" if bad == "" else f"'{bad}'"
    with pytest.raises(DataError, match=f"a.tsv line 3: column 't': got {got}, expected {expected}"):
        load(schema, Source(paths=(str(tmp_path / "a.tsv"),)), Vocabularies())


@pytest.mark.parametrize(
    ("cells", "kind", "message"),
    [
        (pa.array([1.0, float("nan")]), "optional", "row 2: column 'a': got nan, expected a finite number"),
        (pa.array([1, None]), "number", "row 2: column 'a': got None, expected a number"),
        (pa.array([[1], [1, None]]), "bag", r"row 2: column 'a': got \[1, None\], expected items that are not empty"),
        (pa.array([[1], [9]]), "bag", r"row 2: column 'a': got \[9\], expected an integer in \[0, 5\)"),
        (pa.array([[1]]), "range", r"column 'a': type: got list<.*>, expected text or integer or boolean; set bag"),
        (pa.array([1.0]), "range", "column 'a': type: got double, expected text or integer or boolean"),
        (pa.array([1]), "bag", "column 'a': type: got int64, expected lists or text"),
        (pa.array([[1]]), "number", "column 'a': type: got list"),
        (pa.array([[1]]), "weighted", "column 'a': type: got int64, expected text or struct"),
        (pa.array([[1.5]]), "bag", "column 'a': type: got double, expected text or integer"),
        (pa.array([b"x"]), "texts", "column 'a': type: got binary, expected lists or text"),
    ],
)
def test_bad_parquet_cells_and_types_are_named(tmp_path: Path, cells: pa.Array, kind: str, message: str) -> None:
    pq.write_table(pa.table({"a": cells}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=f"a.parquet:? {message}"):
        load(Schema(columns=(COLUMNS[kind],)), Source(paths=(str(tmp_path / "a.parquet"),)), Vocabularies())


@given(st.lists(st.sampled_from(["1,1", "0,2", "2,1", "1,x", "1", "x,x"]), min_size=1, max_size=30), st.integers(0, 12))
def test_bad_rows_are_left_out_up_to_the_limit(tmp_path_factory, lines: list[str], limit: int) -> None:
    file = tmp_path_factory.mktemp("bad") / "a.csv"
    file.write_text("\n".join(["y,a", "1,1", *lines]) + "\n")
    schema = Schema(columns=(COLUMNS["number"],), label=Label(name="y"))
    source = Source(paths=(str(file),), format=Csv(block_bytes=32))
    good = ["1,1"] + [line for line in lines if line in ("1,1", "0,2")]
    rows = BadRows(limit=limit)
    if 1 + len(lines) - len(good) > limit:
        with pytest.raises(DataError, match=r"a\.csv line \d+: "):
            load(schema, source, Vocabularies(), bad_rows=rows)
        assert rows.count == limit + 1
        return
    data = load(schema, source, Vocabularies(), bad_rows=rows)
    assert data.rows.features["label"].tolist() == [float(line[0]) for line in good]
    assert rows.count == 1 + len(lines) - len(good)
    assert len(rows.examples) == min(10, rows.count)
    # The next passes meet the same rows; they count once.
    stream = Stream(schema=schema, source=source, bad_rows=rows, workers=2)
    for _ in range(2):
        assert sum(map(len, stream.batches(4))) == len(good)
    assert rows.count == 1 + len(lines) - len(good)


def test_the_limit_tells_the_first_bad_row_and_the_last_straw() -> None:
    with pytest.raises(ConfigError, match="limit: got -1"):
        BadRows(limit=-1)
    rows = BadRows(limit=1)
    rows.add([BadRow("f", 3, "f line 3: odd")])
    rows.add([BadRow("f", 3, "f line 3: odd")])
    with pytest.raises(DataError, match="more than 1 bad rows; the first: f line 3: odd; now: f line 4: worse"):
        rows.add([BadRow("f", 4, "f line 4: worse")])

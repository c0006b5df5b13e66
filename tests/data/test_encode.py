"""Cells to tensors: against slow loops, row by row."""

import datetime
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funcrec.core.batch import Batch
from funcrec.core.ragged import Ragged
from funcrec.data import Bucketised, Categorical, Hash, Label, Numeric, Range, Schema, Source, Vocabularies, Weight
from funcrec.data import load as load_data
from funcrec.data.derive import derive
from funcrec.data.hashing import Index, hash_texts

NOTHING = Vocabularies()
FROZEN = [17665956581633026203, 198367012849983736, 13255442384202379014]


def load_table(folder: Path, table: pa.Table, schema: Schema) -> Batch:
    pq.write_table(table, folder / "a.parquet")
    return load_data(schema, Source(paths=(str(folder / "a.parquet"),)), NOTHING).rows


def slow_hash(text: str, salt: int) -> int:
    def mix(h: int) -> int:
        h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        h = (h ^ h >> 27) * 0x94D049BB133111EB % 2**64
        return h ^ h >> 31

    h = 0xCBF29CE484222325 ^ mix(salt)
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return mix(h)


@given(st.lists(st.text("ab\0é日", max_size=12), max_size=30), st.integers(0, 2**40), st.integers(0, 5))
def test_the_hash_is_its_definition_whatever_the_slice(texts: list[str], salt: int, skip: int) -> None:
    hashes = hash_texts(pa.array(texts, pa.string()).slice(skip), salt)
    assert hashes.tolist() == [slow_hash(t, salt) for t in texts[skip:]]


def test_the_hash_is_stable_and_spreads() -> None:
    # Tables trained with a hash depend on it: these numbers must never change.
    assert hash_texts(pa.array(["", "a", "日本"])).tolist() == FROZEN
    buckets = hash_texts(pa.array([str(i) for i in range(20_000)])) % np.uint64(16)
    sizes = np.bincount(buckets.astype(int), minlength=16)
    chi2 = ((sizes - 1250) ** 2 / 1250).sum()
    assert chi2 < 40  # 15 degrees of freedom: exceeded once in 2000 hashes


@given(st.lists(st.text(max_size=4), unique=True, max_size=40), st.lists(st.none() | st.text(max_size=4), max_size=40))
def test_an_index_finds_what_is_there_and_only_that(known: list[str], texts: list[str | None]) -> None:
    found = Index(pa.array(known, pa.string())).positions(pa.array(texts + known, pa.string()))
    assert found.tolist() == [known.index(t) if t in known else -1 for t in texts + known]


def test_text_and_integer_files_hash_alike(tmp_path: Path) -> None:
    schema = Schema(columns=(Categorical(name="c", encoding=Hash(buckets=50, salt=3)),))
    numbers = [3, None, -7, 3, 10**15]
    texts = pa.array([None if x is None else str(x) for x in numbers])
    first, second = (load_table(tmp_path, pa.table({"c": c}), schema).ids["c"] for c in (pa.array(numbers), texts))
    assert isinstance(first, torch.Tensor)
    assert isinstance(second, torch.Tensor)
    assert first.tolist() == [0 if x is None else 1 + slow_hash(str(x), 3) % 50 for x in numbers]
    assert torch.equal(first, second)


def test_a_range_keeps_the_files_own_ids(tmp_path: Path) -> None:
    raising = Categorical(name="a", encoding=Range(rows=5, offset=-2))
    lenient = Categorical(name="b", encoding=Range(rows=3, offset=1, out_of_range="oov"))
    table = pa.table({"a": [-2, 0, 2, 1], "b": ["1", "3", "4", None]})
    ids = load_table(tmp_path, table, Schema(columns=(raising, lenient))).ids
    assert {name: x.tolist() for name, x in ids.items() if isinstance(x, torch.Tensor)} == {
        "a": [0, 2, 4, 3],
        "b": [0, 2, 3, 3],
    }


def test_buckets_are_right_open(tmp_path: Path) -> None:
    schema = Schema(columns=(Bucketised(name="x", boundaries=(0.0, 1.5)),))
    ids = load_table(tmp_path, pa.table({"x": [-0.1, 0.0, 1.4, 1.5, None]}), schema).ids["x"]
    assert isinstance(ids, torch.Tensor)
    assert ids.tolist() == [1, 2, 2, 3, 0]


lists = st.lists(st.none() | st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=12)


@given(lists, st.none() | st.integers(1, 4), st.booleans())
def test_lists_and_split_texts_give_the_same_cut_bags(tmp_path_factory, rows, longest, sequence: bool) -> None:
    folder = tmp_path_factory.mktemp("bags")
    column = Categorical(name="a", encoding=Range(rows=10), separator="|", max_length=longest, sequence=sequence)
    schema = Schema(columns=(column,))
    cut = [(r or [])[-(longest or 99) :] if sequence else (r or [])[:longest] for r in rows]
    texts = ["|".join(map(str, r)) if r else None for r in rows]
    typed = pa.array(rows, pa.list_(pa.int32()))
    for cells in (typed, typed.cast(pa.large_list(pa.int64())), pa.array(texts, pa.string())):
        bag = load_table(folder, pa.table({"a": cells}), schema).ids["a"]
        assert isinstance(bag, Ragged)
        assert [x.tolist() for x in bag.values.split(bag.lengths.tolist())] == cut
        assert bag.weights is None


def test_weights_come_from_texts_maps_and_structs(tmp_path: Path) -> None:
    column = Categorical(name="a", encoding=Range(rows=10), weighted=True, separator="|", max_length=2)
    rows = [[(1, 0.5), (2, -2.0)], None, [], [(3, 4.0), (4, 1.0), (5, 1.0)]]
    pairs = pa.map_(pa.int64(), pa.float64())
    structs = [None if r is None else [{"k": k, "v": v} for k, v in r] for r in rows]
    texts = [None if r is None else [f"{k}:{v}" for k, v in r] for r in rows]
    joined = [None if not r else "|".join(r) for r in texts]
    for cells in (pa.array(rows, pairs), pa.array(structs), pa.array(texts), pa.array(joined)):
        # A slice in front, so that offsets into the file's arrays do not start at 0.
        bag = load_table(tmp_path, pa.table({"a": cells}).slice(0), Schema(columns=(column,))).ids["a"]
        assert isinstance(bag, Ragged)
        assert bag.weights is not None
        assert bag.lengths.tolist() == [2, 0, 0, 2]
        assert bag.values.tolist() == [1, 2, 3, 4]
        assert bag.weights.tolist() == [0.5, -2.0, 4.0, 1.0]


def test_numbers_are_transformed_after_empty_cells_are_filled(tmp_path: Path) -> None:
    columns = (
        Numeric(name="plain", source="x", missing=7.0),
        Numeric(name="log1p", source="x", transform="log1p", missing=0.0),
        Numeric(name="clip", source="low", transform="log1p_clip", missing=1.0),
        Numeric(name="plus3", source="low", transform="log_plus3", missing=0.0),
        Numeric(name="vector", width=2),
    )
    table = pa.table({"x": [1.0, None, 0.0], "low": [-2, None, 5], "vector": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]})
    batch = load_table(
        tmp_path, table.append_column("w", [[0.5, 1.0, 2.0]]), Schema(columns=columns, weight=Weight(name="w"))
    )
    dense = {k: v.tolist() for k, v in batch.features["dense"].items()}
    ln = math.log
    expected = {
        "plain": [1.0, 7.0, 0.0],
        "log1p": [ln(2), 0.0, 0.0],
        "clip": [0.0, ln(2), ln(6)],
        "plus3": [0.0, ln(3), ln(8)],
    }
    for name, values in expected.items():
        assert [x for (x,) in dense[name]] == pytest.approx(values)
    assert dense["vector"] == [[1, 2], [3, 4], [5, 6]]
    assert batch.features["weight"].tolist() == [0.5, 1.0, 2.0]
    assert "label" not in batch.features


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (Label(name="y", threshold=4), [0, 1, 1, 0]),
        (Label(name="y", positive=("3", "4")), [1, 1, 0, 0]),
        (Label(name="y", binary=False), [3, 4, 5, 0]),
    ],
)
def test_labels(tmp_path: Path, label: Label, expected: list[int]) -> None:
    schema = Schema(columns=(Numeric(name="x"),), label=label)
    for y in ([3, 4, 5, 0], ["3", "4", "5", "0"]):
        assert load_table(tmp_path, pa.table({"y": y, "x": [0.0] * 4}), schema).features["label"].tolist() == expected


@given(st.lists(st.none() | st.integers(-(10**6), 10**12), max_size=30))
def test_log_square_is_the_slow_rule(counts: list[int | None]) -> None:
    tokens, bad, _ = derive("log_square", pa.array([None if c is None else str(c) for c in counts], pa.string()))
    slow = [None if c is None else math.floor(math.log(c) ** 2) if c > 2 else c for c in counts]
    assert tokens.to_pylist() == slow
    assert not bad.any()


@given(st.lists(st.none() | st.datetimes(datetime.datetime(2000, 1, 1), datetime.datetime(2099, 12, 31)), max_size=20))
def test_dates_are_pythons(dates: list[datetime.datetime | None]) -> None:
    cells = pa.array([None if d is None else d.strftime("%y%m%d%H") for d in dates], pa.string())
    read = {
        "yymmddhh_hour": lambda d: d.hour,
        "yymmddhh_weekday": lambda d: d.weekday(),
        "yymmddhh_weekend": lambda d: int(d.weekday() >= 5),
    }
    for name, part in read.items():
        tokens, bad, _ = derive(name, cells)  # type: ignore[arg-type]
        assert tokens.to_pylist() == [None if d is None else part(d) for d in dates]
        assert not bad.any()


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_only_dates_that_exist_are_read(year: int, month: int, day: int, hour: int) -> None:
    try:
        datetime.datetime(2000 + year, month, day, hour)
        exists = True
    except ValueError:
        exists = False
    _, bad, _ = derive("yymmddhh_hour", pc.cast(pa.array([f"{year:02}{month:02}{day:02}{hour:02}"]), pa.string()))
    assert bad.tolist() == [not exists]

"""Side files: what a join adds is what a dictionary would, and what cannot be joined is named."""

import gzip
import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funcrec.core.errors import ConfigError, DataError
from funcrec.core.ragged import Nested, Ragged
from funcrec.core.random import key
from funcrec.data import (
    Categorical,
    Csv,
    Join,
    Label,
    Numeric,
    Parquet,
    Range,
    Schema,
    Source,
    Stream,
    Vocabularies,
    learn,
    load,
)

IDS = Range(rows=9)
SCHEMA = Schema(
    columns=(
        Categorical(name="item", encoding=IDS),
        Categorical(name="attrs", encoding=IDS, bag=True),
        Categorical(name="hist", encoding=IDS, sequence=True, max_length=3, shares="item"),
        Categorical(name="hist_attrs", encoding=IDS, sequence=True, bag=True, max_length=3, shares="attrs"),
    ),
    label=Label(name="y"),
)
JOINS = (
    Join(path="side.parquet", key="id", on="item", columns=(("attrs", "words"),)),
    Join(path="side.parquet", key="id", on="hist", columns=(("hist_attrs", "words"),)),
)
item = st.integers(0, 8)
sides = st.dictionaries(item, st.none() | st.lists(item, max_size=3), min_size=1)
rows = st.lists(st.tuples(item, st.none() | st.lists(item, max_size=5)), min_size=1, max_size=12)


def write(folder: Path, side: dict, table: list[tuple], kind: pa.DataType | None = None) -> Source:
    keys = pa.array(side.keys(), kind or pa.int32())
    words = pa.array(side.values(), pa.list_(pa.int16()))
    pq.write_table(pa.table({"words": words, "id": keys, "other": keys}), folder / "side.parquet")
    columns = {
        "y": pa.array([i % 2 for i in range(len(table))]),
        "item": pa.array([i for i, _ in table], pa.int64()),
        "hist": pa.array([h for _, h in table], pa.list_(pa.int8())),
    }
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    joins = tuple(Join(path=str(folder / j.path), key=j.key, on=j.on, columns=j.columns) for j in JOINS)
    return Source(paths=(str(folder / "rows.parquet"),), format=Parquet(chunk_rows=5), joins=joins)


def bags(x) -> list[list[int]]:
    assert isinstance(x, Ragged)
    return [b.tolist() for b in x.values.split(x.lengths.tolist())]


def histories(x) -> list[list[list[int]]]:
    assert isinstance(x, Nested)
    steps = bags(x.bags)
    ends = x.offsets.tolist()
    return [steps[a:b] for a, b in itertools.pairwise(ends)]


@given(sides, rows)
def test_a_join_is_a_dictionary_look_up_and_lists_of_keys_give_lists(tmp_path_factory, side, table) -> None:
    source = write(tmp_path_factory.mktemp("join"), side, table)
    data = load(SCHEMA, source, Vocabularies())
    assert bags(data.rows.ids["attrs"]) == [side.get(i) or [] for i, _ in table]
    assert bags(data.rows.ids["hist"]) == [(h or [])[-3:] for _, h in table]
    expected = [[side.get(i) or [] for i in (h or [])[-3:]] for _, h in table]
    assert histories(data.rows.ids["hist_attrs"]) == expected
    steps = [len(h) for h in expected]
    length = data.rows.features["length"]
    assert sorted(length.keys()) == ["hist", "hist_attrs"]
    for name in ("hist", "hist_attrs"):
        assert length[name].tolist() == steps
        assert length[name].dtype == torch.int64
    streamed = Stream(schema=SCHEMA, source=source, window=4)
    seen = [h for b in streamed.batches(3) for h in histories(b.ids["hist_attrs"])]
    assert seen == expected


@given(sides, rows, st.integers(1, 5), st.integers(0, 99))
def test_shuffled_batches_keep_a_row_together(tmp_path_factory, side, table, size, seed) -> None:
    source = write(tmp_path_factory.mktemp("join"), side, table)
    for data in (load(SCHEMA, source, Vocabularies()), Stream(schema=SCHEMA, source=source, window=4)):
        passed = list(data.batches(size, key=key(seed)))
        assert [len(b) for b in passed] == [size] * (len(table) // size) + [len(table) % size] * (len(table) % size > 0)
        whole = []
        for b in passed:
            assert b.features["length", "hist"].tolist() == [len(h) for h in histories(b.ids["hist_attrs"])]
            item = b.ids["item"]
            assert isinstance(item, torch.Tensor)
            columns = (item.tolist(), bags(b.ids["hist"]), histories(b.ids["hist_attrs"]), b.features["label"].tolist())
            whole += list(zip(*columns, strict=True))
        cut = [(i, (h or [])[-3:]) for i, h in table]
        expected = [(i, h, [side.get(x) or [] for x in h], float(n % 2)) for n, (i, h) in enumerate(cut)]
        assert sorted(whole) == sorted(expected)


def test_keys_of_text_match_keys_of_integers_and_texts_are_split(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("y,item,hist\n1,1,1|2\n0,3,\n1,9,2\n")
    table = pa.table({"id": pa.array([1, 2, 3], pa.uint8()), "words": ["4 5", "", "6"], "x": [0.5, 1.5, 2.5]})
    pq.write_table(table, tmp_path / "side.parquet")
    side = str(tmp_path / "*.parquet")
    joins = (
        Join(path=side, key="id", on="item", columns=(("attrs", "words"), "x")),
        Join(path=side, key="id", on="hist", columns=(("hist_attrs", "words"),), separator="|"),
    )
    columns = (
        Categorical(name="attrs", encoding=IDS, separator=" "),
        Categorical(name="hist", encoding=IDS, sequence=True, separator="|"),
        Categorical(name="hist_attrs", encoding=IDS, sequence=True, bag=True, separator=" "),
        Numeric(name="x", missing=-1.0),
    )
    schema = Schema(columns=columns, label=Label(name="y"), ignore=("item",))
    source = Source(paths=(str(tmp_path / "rows.csv"),), joins=joins)
    data = load(schema, source, learn(schema, source)).rows
    assert bags(data.ids["attrs"]) == [[4, 5], [6], []]
    assert data.features["dense", "x"][:, 0].tolist() == [0.5, 2.5, -1.0]
    assert histories(data.ids["hist_attrs"]) == [[[4, 5], []], [], [[]]]


def test_what_cannot_be_joined_is_named(tmp_path: Path) -> None:
    good = {1: [2], 3: []}
    table = [(1, [1, 3]), (3, [])]

    def read(source: Source, schema: Schema = SCHEMA) -> None:
        load(schema, source, Vocabularies())

    source = write(tmp_path, good, table)
    read(source)
    twice = pa.table({"id": [1, 1], "words": pa.array([[1], [2]]), "other": [0, 0]})
    empty = pa.table({"id": pa.array([1, None]), "words": pa.array([[1], [2]]), "other": [0, 0]})
    floats = pa.table({"id": [1.5], "words": pa.array([[1]]), "other": [0]})
    for bad, message in (
        (twice, r"side\.parquet: column 'id': got \[1\] more than once"),
        (empty, r"side\.parquet: column 'id': got an empty key"),
        (twice.slice(0, 0), r"side\.parquet: column 'id': got no rows"),
        (floats, r"side\.parquet: column 'id': type: got double, expected integers or text"),
        (twice.drop(["id"]), r"side\.parquet: no column 'id'"),
        (twice.drop(["words"]), r"side\.parquet: no column 'words'"),
    ):
        pq.write_table(bad, tmp_path / "side.parquet")
        with pytest.raises(DataError, match=message):
            read(source)
    (tmp_path / "side.parquet").unlink()
    with pytest.raises(DataError, match=r"side\.parquet.*no files"):
        read(source)
    source = write(tmp_path, good, table)
    with pytest.raises(ConfigError, match=r"schema does not read: got \['hist_attrs'\]"):
        read(source, Schema(columns=SCHEMA.columns[:3], label=Label(name="y")))
    on_user = Join(path=source.joins[0].path, key="id", on="user", columns=(("attrs", "words"),))
    with pytest.raises(DataError, match="no column 'user'"):
        read(Source(paths=source.paths, joins=(on_user, source.joins[1])))
    with pytest.raises(DataError, match=r"a join makes too: got \['attrs'\]"):
        read(Source(paths=source.paths, joins=(source.joins[0], *source.joins)))
    with pytest.raises(ConfigError, match="columns: got none"):
        Join(path="x", key="id", on="item", columns=())
    flat = Join(path=source.joins[0].path, key="id", on="hist", columns=(("hist_attrs", "other"),))
    with pytest.raises(DataError, match=r"column 'hist_attrs\[\]': type: got int32, expected lists"):
        read(Source(paths=source.paths, joins=(source.joins[0], flat)))


def test_bad_lines_of_a_side_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("y,user\n1,7\n")
    (tmp_path / "side.tsv.gz").write_bytes(gzip.compress(b"id\tage\n7\t30\n8\n"))
    join = Join(path=str(tmp_path / "side.tsv.gz"), key="id", on="user", columns=("age",), format=Csv(delimiter="\t"))
    schema = Schema(columns=(Numeric(name="age"),), label=Label(name="y"), ignore=("user",))
    with pytest.raises(DataError, match=r"side\.tsv\.gz line 3: got 1 columns, expected 2"):
        load(schema, Source(paths=(str(tmp_path / "rows.csv"),), joins=(join,)), Vocabularies())


def test_a_bad_id_in_a_bag_of_a_step_is_a_bad_value_of_its_row(tmp_path: Path) -> None:
    source = write(tmp_path, {1: [2], 3: [9]}, [(1, [1]), (1, [1, 3])])
    with pytest.raises(DataError, match=r"rows\.parquet row 2: column 'hist_attrs': got \[\[2\], \[9\]\]"):
        load(SCHEMA, source, Vocabularies())

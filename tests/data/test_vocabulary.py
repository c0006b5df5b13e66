"""What is learnt: against ``collections.Counter`` and numpy, whatever the cut into chunks, and through files."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funcrec.core.errors import ConfigError, DataError
from funcrec.core.ragged import Ragged
from funcrec.data import (
    Bucketised,
    Categorical,
    Csv,
    Moments,
    Numeric,
    Schema,
    Source,
    Vocabularies,
    Vocabulary,
    learn,
    load,
)
from funcrec.data.learn import Sketch, _Counts

tokens = st.lists(st.sampled_from(["a", "b", "B", "é", "zz", "日本", ""]), min_size=1, max_size=60)


def write(folder: Path, name: str, columns: dict[str, list]) -> Source:
    rows = [",".join(columns)] + [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    (folder / name).write_text("\n".join(rows) + "\n")
    return Source(paths=(str(folder / name),), format=Csv(block_bytes=40))


@given(tokens, st.integers(1, 4))
def test_a_vocabulary_is_the_counter_by_count_then_bytes(tmp_path_factory, texts: list[str], least: int) -> None:
    source = write(tmp_path_factory.mktemp("v"), "a.csv", {"c": texts, "n": [1] * len(texts)})
    schema = Schema(columns=(Categorical(name="c", encoding=Vocabulary(min_count=least)),), ignore=("n",))
    counted = Counter(t or None for t in texts)
    # The empty cell comes last among tokens of one count.
    order = sorted(counted.items(), key=lambda p: (-p[1], p[0] is None, (p[0] or "").encode()))
    expected = [t for t, n in order if n >= least]
    learnt = learn(schema, source)
    assert learnt.tokens["c"].to_pylist() == expected
    data = load(schema, source, learnt)
    ids = data.rows.ids["c"]
    assert isinstance(ids, torch.Tensor)
    assert ids.tolist() == [expected.index(t or None) + 1 if (t or None) in expected else 0 for t in texts]
    assert data.fields.rows["c"] == len(expected) + 1


@given(st.lists(tokens, min_size=1, max_size=8), st.integers(1, 3))
def test_counts_merge_like_counters(parts: list[list[str]], least: int) -> None:
    counts = _Counts(least)
    for part in parts:
        counts.add(pa.array(part))
        counts.frequent()  # merging early changes nothing
    total = sum((Counter(p) for p in parts), Counter[str]())
    expected = sorted((t for t in total if total[t] >= least), key=lambda t: (-total[t], t.encode()))
    assert counts.frequent().to_pylist() == expected


def test_a_history_shares_the_vocabulary_of_its_items(tmp_path: Path) -> None:
    source = write(tmp_path, "a.csv", {"item": ["a", "b", "new"], "hist": ["", "a|a|c", "c|a"]})
    hist = Categorical(name="hist", separator="|", sequence=True, shares="item")
    schema = Schema(columns=(hist, Categorical(name="item")))
    learnt = learn(schema, source)
    assert learnt.tokens["item"].to_pylist() == ["a", "c", "b", "new"]
    data = load(schema, source, learnt)
    history = data.rows.ids["hist"]
    assert isinstance(history, Ragged)
    assert history.values.tolist() == [1, 1, 2, 2, 1]
    assert data.fields.rows == {"hist": 5, "item": 5}
    assert data.fields.shares == {"hist": "item"}


finite = st.floats(-1e6, 1e6, allow_nan=False, width=32)


@given(st.lists(st.none() | finite, min_size=1, max_size=60).filter(lambda xs: any(x is not None for x in xs)))
def test_moments_are_numpys(tmp_path_factory, numbers: list[float | None]) -> None:
    texts = ["" if x is None else repr(x) for x in numbers]
    source = write(tmp_path_factory.mktemp("m"), "a.csv", {"x": texts, "n": [1] * len(texts)})
    schema = Schema(columns=(Numeric(name="x", transform="standardize", missing="mean"),), ignore=("n",))
    present = np.array([x for x in numbers if x is not None])
    learnt = learn(schema, source)
    mean, std = learnt.moments["x"]
    assert mean == pytest.approx(present.mean(), rel=1e-9, abs=1e-9)
    if present.max() > present.min():
        assert std == pytest.approx(present.std(), rel=1e-6)
    x = load(schema, source, learnt).rows.features["dense", "x"][:, 0]
    expected = torch.tensor([0.0 if v is None else (v - mean) / std for v in numbers])
    torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)


def test_a_constant_column_has_std_one_and_an_empty_one_cannot_be_standardised(tmp_path: Path) -> None:
    source = write(tmp_path, "a.csv", {"x": [2, 2], "y": ["", ""]})
    columns = [Numeric(name=n, transform="standardize", missing="mean") for n in "xy"]
    assert learn(Schema(columns=(columns[0],), ignore=("y",)), source).moments["x"] == Moments(2.0, 1.0)
    with pytest.raises(DataError, match="field 'y': mean and deviation: got no numbers"):
        learn(Schema(columns=tuple(columns)), source)


@given(st.lists(st.none() | st.integers(-20, 20), min_size=1, max_size=80), st.integers(2, 6))
def test_buckets_partition_the_numbers_and_none_is_empty(tmp_path_factory, numbers, parts: int) -> None:
    texts = ["" if x is None else x for x in numbers]
    source = write(tmp_path_factory.mktemp("q"), "a.csv", {"x": texts, "n": [1] * len(texts)})
    schema = Schema(columns=(Bucketised(name="x", quantiles=parts),), ignore=("n",))
    learnt = learn(schema, source)
    edges = learnt.boundaries["x"]
    assert len(edges) <= parts - 1
    data = load(schema, source, learnt)
    ids = data.rows.ids["x"]
    assert isinstance(ids, torch.Tensor)
    assert ids.tolist() == [0 if x is None else 1 + sum(b <= x for b in edges) for x in numbers]
    if any(x is not None for x in numbers):
        assert set(range(1, len(edges) + 2)) == set(ids.tolist()) - {0}
    assert data.fields.rows["x"] == len(edges) + 2


@given(st.integers(2, 9), st.integers(20, 200), st.randoms())
def test_quantiles_of_distinct_numbers_cut_equal_parts(parts: int, n: int, random) -> None:
    values = np.arange(n, dtype=np.float64)
    random.shuffle(values)
    sketch = Sketch(parts)
    for piece in np.array_split(values, 3):
        sketch.add(piece)
    sizes = np.diff([0, *np.searchsorted(np.arange(n), sketch.boundaries()), n])
    assert len(sizes) == parts
    assert sizes.max() - sizes.min() <= 1


def test_a_small_sketch_keeps_its_promise_on_ranks() -> None:
    values = np.random.default_rng(0).permutation(20_000).astype(np.float64)
    sketch, chunks = Sketch(10, limit=200), np.array_split(values, 40)
    bound = 0.0
    for i, chunk in enumerate(chunks, 1):
        sketch.add(chunk)
        assert len(sketch.values) <= 400
        bound += i * 500 / 400
    assert sketch.counts.sum() == 20_000
    error = np.abs(np.array(sketch.boundaries()) - 2000 * np.arange(1, 10)).max()
    assert 0 < error < bound
    assert error < 20_000 / 50  # far below the bound: the errors of successive merges do not add up


def example() -> Vocabularies:
    texts = pa.array(["b", None, "日本", "", "a"])
    other = pa.array([], pa.string())
    return Vocabularies(
        tokens={"c": texts, "d": other}, boundaries={"x": (0.1, 1 / 3)}, moments={"z": Moments(0.1, 1e-300)}
    )


def test_vocabularies_survive_their_files(tmp_path: Path) -> None:
    saved = example()
    saved.save(tmp_path / "new" / "folder")
    again = Vocabularies.load(tmp_path / "new" / "folder")
    assert again == saved
    assert hash(again) == hash(saved)
    assert again.tokens["c"].to_pylist() == ["b", None, "日本", "", "a"]
    assert again.boundaries == saved.boundaries
    assert again.moments == saved.moments
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["vocabulary.json", "vocabulary.parquet"]
    column = Categorical(name="c")
    assert again.ids(column, pa.array(["a", "", None, "x", "日本"])).tolist() == [5, 4, 2, 0, 3]


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": {"c": pa.array(["b", None, "日本", "", "A"]), "d": pa.array([], pa.string())}},
        {"tokens": {"c": pa.array(["b", "", "日本", None, "a"]), "d": pa.array([], pa.string())}},
        {"tokens": {"c": pa.array(["b", None, "日", "本", "a"]), "d": pa.array([], pa.string())}},
        {"boundaries": {"x": (0.1, 0.3333)}},
        {"moments": {"z": Moments(0.1, 1.0)}},
    ],
)
def test_any_change_changes_the_fingerprint(change) -> None:
    assert dataclasses.replace(example(), **change).fingerprint() != example().fingerprint()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: got FileNotFoundError"):
        Vocabularies.load(tmp_path)
    example().save(tmp_path)
    document = json.loads((tmp_path / "vocabulary.json").read_text())
    document["boundaries"]["x"][0] = 0.2
    (tmp_path / "vocabulary.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="fingerprint: got"):
        Vocabularies.load(tmp_path)
    del document["moments"]
    (tmp_path / "vocabulary.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="cannot be read: got KeyError"):
        Vocabularies.load(tmp_path)


def test_a_vocabulary_with_a_token_twice_is_refused() -> None:
    twice = Vocabularies(tokens={"c": pa.array(["a", "a"])})
    with pytest.raises(ConfigError, match="a token more than once"):
        twice.ids(Categorical(name="c"), pa.array(["a"]))

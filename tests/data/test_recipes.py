"""The recipes on the real files: rows, positive rates, table rows, and what the preprocessing says."""

import gzip
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from funcrec.core.errors import ConfigError, DataError
from funcrec.core.ragged import Nested, Ragged
from funcrec.core.rows import cut
from funcrec.data import (
    BadRows,
    InMemory,
    Recipe,
    Schema,
    Vocabularies,
    adult,
    avazu,
    criteo,
    din_toys_and_games,
    frappe,
    learn,
    load,
    ml_100k,
)

RECIPES = {
    "frappe": (frappe(), "frappe/train.csv.gz", 202_005, 0.335),
    "adult": (adult(dense=True), "adult/adult.data.gz", 32_561, 0.241),
    "criteo": (criteo(), "criteo_10k/train.tsv.gz", 7_200, 0.215),
    "avazu": (avazu(), "avazu_10k/train.csv.gz", 8_087, 0.173),
}
Loaded = tuple[Recipe, Vocabularies, InMemory]


@pytest.fixture(scope="module")
def loaded(real_data: Path) -> dict[str, Loaded]:
    out = {}
    for name, (recipe, file, _, _) in RECIPES.items():
        source = recipe.source(real_data / file)
        vocabularies = learn(recipe.schema, source)
        out[name] = (recipe, vocabularies, load(recipe.schema, source, vocabularies))
    return out


def column(data: InMemory, name: str) -> torch.Tensor:
    ids = data.rows.ids[name]
    assert isinstance(ids, torch.Tensor)
    return ids


def text(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


@pytest.mark.parametrize("name", RECIPES)
def test_rows_and_positive_rates_are_the_published_ones(loaded: dict[str, Loaded], name: str) -> None:
    recipe, _, data = loaded[name]
    _, _, rows, rate = RECIPES[name]
    assert len(data) == rows
    assert float(data.rows.features["label"].mean()) == pytest.approx(rate, abs=0.0006)
    for field, size in data.fields.rows.items():
        ids = column(data, field)
        assert 0 <= int(ids.min()) <= int(ids.max()) < size
    assert Schema.from_json(recipe.schema.to_json()) == recipe.schema


def test_frappe_tables_hold_the_published_ids(loaded, real_data: Path) -> None:
    recipe, vocabularies, data = loaded["frappe"]
    train = [line.split(",") for line in text(real_data / "frappe/train.csv.gz")]
    for i, name in enumerate(train[0][1:], 1):
        assert data.fields.rows[name] == len({row[i] for row in train[1:]}) + 1
    assert 5_382 - 10 < sum(data.fields.rows.values()) - len(data.fields.rows) <= 5_382
    valid = load(recipe.schema, recipe.source(real_data / "frappe/valid.csv.gz"), vocabularies)
    assert len(valid) == 57_722
    assert float(valid.rows.features["label"].mean()) == pytest.approx(0.330, abs=0.0006)
    seen = {row[1] for row in train[1:]}
    unseen = sum(line.split(",")[1] not in seen for line in text(real_data / "frappe/valid.csv.gz")[1:])
    assert int((column(valid, "user") == 0).sum()) == unseen > 0


def test_adult_has_missing_tokens_deciles_and_standard_numbers(loaded, real_data: Path) -> None:
    _, vocabularies, data = loaded["adult"]
    rows = [line.split(", ") for line in text(real_data / "adult/adult.data.gz")]
    missing = vocabularies.tokens["workclass"].to_pylist().index(None) + 1
    assert int((column(data, "workclass") == missing).sum()) == sum(row[1] == "?" for row in rows)
    sizes = column(data, "fnlwgt").bincount()
    assert sizes[0] == 0
    assert sizes[1:].tolist() == pytest.approx([3256.1] * 10, rel=0.02)
    assert len(data.fields.dense) == 6
    for x in data.rows.features["dense"].values():
        assert float(x.double().mean()) == pytest.approx(0, abs=1e-4)
        assert float(x.double().std(correction=0)) == pytest.approx(1, abs=1e-4)


def test_adult_reads_the_official_test_files_quirks(tmp_path: Path) -> None:
    row = "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 0, 0, 40, Cuba"
    (tmp_path / "adult.test").write_text(f"|1x3 Cross validator\n{row}, <=50K.\n{row}, >50K.\n\n")
    recipe = adult()
    source = recipe.source(tmp_path / "adult.test")
    with pytest.raises(DataError, match=r"adult\.test line 1: got 1 columns, expected 15"):
        learn(recipe.schema, source)
    vocabularies = learn(recipe.schema, source, bad_rows=BadRows(limit=1))
    data = load(recipe.schema, source, vocabularies, bad_rows=BadRows(limit=1))
    assert data.rows.features["label"].tolist() == [0, 1]


def test_criteo_keeps_tokens_of_ten_and_more_and_missing_ones(loaded, real_data: Path) -> None:
    _, vocabularies, data = loaded["criteo"]
    rows = [line.split("\t") for line in text(real_data / "criteo_10k/train.tsv.gz")]
    for i in range(26):
        counts = Counter(row[14 + i] or None for row in rows)
        assert set(vocabularies.tokens[f"C{i + 1}"].to_pylist()) == {t for t, n in counts.items() if n >= 10}
        rare = sum(n for n in counts.values() if n < 10)
        assert int((column(data, f"C{i + 1}") == 0).sum()) == rare
    assert None in vocabularies.tokens["I1"].to_pylist()
    dense = criteo(integers="dense")
    source = dense.source(real_data / "criteo_10k/*.gz")
    both = load(dense.schema, source, learn(dense.schema, source))
    assert len(both) == 7_200 + 409
    assert len(both.fields.dense) == 13
    assert float(both.rows.features["dense", "I2"].min()) == 0.0
    with pytest.raises(ConfigError, match="'log'"):
        criteo(integers="log")  # type: ignore[arg-type]


def test_avazu_reads_files_with_and_without_a_header(loaded, real_data: Path) -> None:
    recipe, vocabularies, train = loaded["avazu"]
    assert "id" not in train.fields.rows
    assert vocabularies.tokens["weekend"].to_pylist()[0] == "0"
    assert set(vocabularies.tokens["hour"].to_pylist()) <= set(map(str, range(24)))
    both = load(recipe.schema, recipe.source(real_data / "avazu_10k"), vocabularies)
    dev = load(recipe.schema, recipe.source(real_data / "avazu_10k/dev.csv.gz"), vocabularies)
    assert len(dev) == 480
    assert len(both) == 8_087 + 480


def test_din_reads_a_folder_with_the_attributes_of_every_item(real_data: Path) -> None:
    recipe = din_toys_and_games()
    folder = real_data / "din_toys_and_games"
    source = recipe.source(folder, split="test")
    assert source.files() == (str(folder / "test.parquet"),)
    assert recipe.source(folder).files() == (str(folder / "train.parquet"),)
    data = load(recipe.schema, source, learn(recipe.schema, source))
    assert len(data) == 38_824
    assert float(data.rows.features["label"].mean()) == pytest.approx(0.5, abs=0.0006)
    assert data.fields.rows["item"] == data.fields.rows["hist_items"] == 11_925
    assert data.fields.sequences == ("hist_items", "hist_attrs")
    assert data.fields.shares == {"hist_items": "item", "hist_attrs": "item_attrs"}
    side = pq.read_table(folder / "items.parquet").to_pydict()
    attributes = dict(zip(side["item"], side["attrs"], strict=True))
    rows = pq.read_table(folder / "test.parquet").slice(1000, 50).to_pylist()
    batch = cut(data.rows, 1000, 1050)
    target, history, steps = (batch.ids[n] for n in ("item_attrs", "hist_items", "hist_attrs"))
    assert isinstance(target, Ragged)
    assert isinstance(history, Ragged)
    assert isinstance(steps, Nested)
    assert target.values.tolist() == [a for r in rows for a in attributes[r["item"]]]
    assert history.values.tolist() == [i for r in rows for i in r["hist_items"]]
    assert steps.values.tolist() == [a for r in rows for i in r["hist_items"] for a in attributes[i]]
    assert steps.bags.lengths.tolist() == [len(attributes[i]) for r in rows for i in r["hist_items"]]
    expected = [len(r["hist_items"]) for r in rows]
    for name in ("hist_items", "hist_attrs"):
        assert batch.features["length", name].tolist() == expected


def test_movielens_joins_both_sides_and_splits_by_time(real_data: Path) -> None:
    recipe = ml_100k()
    source = recipe.source(real_data / "ml-100k")
    one_file = recipe.source(real_data / "ml-100k" / "ml-100k.inter.gz")
    assert one_file.files() == source.files()
    data = load(recipe.schema, source, learn(recipe.schema, source))
    assert len(data) == 100_000
    assert float(data.rows.features["label"].mean()) == pytest.approx(0.5537, abs=0.0001)
    assert {n: data.fields.rows[n] for n in ("user_id", "item_id", "gender", "occupation", "age", "classes")} == {
        "user_id": 944, "item_id": 1_683, "gender": 3, "occupation": 22, "age": 8, "classes": 20,
    }  # fmt: skip
    ratings = [line.split("\t") for line in text(real_data / "ml-100k/ml-100k.inter.gz")[1:]]
    users, items = (
        {line.split("\t")[0]: line.split("\t") for line in text(real_data / f"ml-100k/ml-100k.{side}.gz")[1:]}
        for side in ("user", "item")
    )
    assert column(data, "user_id").tolist() == [int(r[0]) for r in ratings]
    genders = Counter(users[r[0]][2] for r in ratings)
    assert column(data, "gender").bincount().tolist() == [0, genders["M"], genders["F"]]
    young = sum(int(users[r[0]][1]) < 18 for r in ratings)
    assert int((column(data, "age") == 1).sum()) == young > 0
    genres = data.rows.ids["classes"]
    assert isinstance(genres, Ragged)
    assert genres.lengths.tolist() == [len(items[r[1]][3].split()) for r in ratings]
    early, late = data.split_time(0.1)
    assert len(late) == pytest.approx(10_000, rel=0.01)
    assert early.rows.features["time"].max() < late.rows.features["time"].min()
    with pytest.raises(ConfigError, match=r"split 'test'.*one of \['train'\]"):
        recipe.source(real_data / "ml-100k", split="test")


def test_side_files_lie_beside_the_rows(tmp_path: Path) -> None:
    """Made files, so that a recipe is tested where the real ones are not."""
    pq.write_table(pa.table({"item": [1, 2], "attrs": [[3, 4], [5]]}), tmp_path / "items.parquet")
    table = pa.table({"label": [1, 0], "user": [1, 2], "item": [2, 1], "hist_items": [[1, 2], list(range(1, 61))]})
    pq.write_table(table, tmp_path / "part-0.parquet")
    recipe = din_toys_and_games()
    source = recipe.source(tmp_path / "part-0.parquet")
    rows = load(recipe.schema, source, learn(recipe.schema, source)).rows
    assert rows.features["length", "hist_attrs"].tolist() == [2, 50]
    steps = rows.ids["hist_attrs"]
    assert isinstance(steps, Nested)
    assert steps.bags.lengths.tolist() == [2, 1, *[0] * 50]
    assert steps.values.tolist() == [3, 4, 5]
    sides = {
        "inter": ["user_id:token,item_id:token,rating:float,timestamp:float", "7,8,4,1", "7,9,3,2"],
        "user": ["user_id:token,age:token,gender:token,occupation:token,zip_code:token", "7,18,F,artist,1"],
        "item": ["item_id:token,movie_title:token_seq,release_year:token,class:token_seq", "8,A b,1995,x y", "9,C,,"],
    }
    for side, lines in sides.items():
        (tmp_path / f"a.{side}").write_text("\n".join(lines).replace(",", "\t") + "\n")
    recipe = ml_100k()
    source = recipe.source(tmp_path)
    rows = load(recipe.schema, source, learn(recipe.schema, source)).rows
    assert rows.features["label"].tolist() == [1.0, 0.0]
    assert rows.features["time"].tolist() == [1.0, 2.0]
    genres = rows.ids["classes"]
    assert isinstance(genres, Ragged)
    assert genres.lengths.tolist() == [2, 0]
    assert rows.ids["age"].tolist() == [2, 2]  # type: ignore[union-attr]

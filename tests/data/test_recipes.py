"""The recipes on the real files: rows, positive rates, table rows, and what the preprocessing says."""

import gzip
from collections import Counter
from pathlib import Path

import pytest
import torch

from funcrec.core.errors import ConfigError, DataError
from funcrec.data import (
    BadRows,
    Categorical,
    Csv,
    InMemory,
    Label,
    Recipe,
    Schema,
    Source,
    Time,
    Vocabularies,
    adult,
    avazu,
    criteo,
    frappe,
    learn,
    load,
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


def test_din_histories_share_the_items(real_data: Path) -> None:
    history = Categorical(name="hist_items", sequence=True, max_length=20, shares="item")
    schema = Schema(columns=(Categorical(name="item"), history), label=Label(name="label"), ignore=("user",))
    source = Source(paths=(str(real_data / "din_toys_and_games/test.parquet"),))
    data = load(schema, source, learn(schema, source))
    assert len(data) == 38_824
    assert data.fields.rows["item"] == data.fields.rows["hist_items"]
    assert data.fields.sequences == ("hist_items",)


def test_movielens_splits_by_time(real_data: Path) -> None:
    columns = tuple(Categorical(name=n, source=f"{n}_id:token") for n in ("user", "item"))
    schema = Schema(columns=columns, label=Label(name="rating:float", threshold=4), time=Time(name="timestamp:float"))
    layout = Csv(delimiter="\t", quote=None)
    source = Source(paths=(str(real_data / "ml-100k/ml-100k.inter.gz"),), format=layout)
    data = load(schema, source, learn(schema, source))
    assert len(data) == 100_000
    assert data.fields.rows == {"user": 944, "item": 1_683}
    early, late = data.split_time(0.1)
    assert len(late) == pytest.approx(10_000, rel=0.01)
    assert early.rows.features["time"].max() < late.rows.features["time"].min()

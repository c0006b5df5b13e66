"""DIN and two towers by the training script, on small data in the layout of the real; the picture of an attention."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from funcrec.core.errors import ConfigError, FuncrecError

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import attention
import experiment
import job
import train
from options import Options

QUIET = {"tensorboard": False, "progress": False, "epochs": 1, "batch_size": 64, "patience": None, "compile": False}
SMALL = {"hidden": (8,), "embedding_dim": 4}
ITEMS, ATTRIBUTES = 30, 9


def write_toys(folder: Path, n: int) -> None:
    """Pairs of rows: a user's history with the next item, then with a drawn one."""
    random = np.random.default_rng(n)
    rows: dict[str, list] = {"label": [], "user": [], "item": [], "hist_items": []}
    for i in range(n):
        history = [int(x) for x in random.integers(1, ITEMS, random.integers(1, 15))]
        for label in (1, 0):
            rows["label"].append(label)
            rows["user"].append(i % 50 + 1)
            rows["item"].append(int(random.integers(1, ITEMS)))
            rows["hist_items"].append(history)
    pa.parquet.write_table(pa.table(rows), folder / ("train.parquet" if n > 100 else "test.parquet"))
    attrs = [[int(x) for x in random.integers(1, ATTRIBUTES, random.integers(1, 4))] for _ in range(ITEMS)]
    pa.parquet.write_table(pa.table({"item": range(ITEMS), "attrs": attrs}), folder / "items.parquet")


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    write_toys(folder, 40)
    write_toys(folder, 300)
    return folder


def din(toys, out, **changes):
    given = {"data": "din_toys_and_games", "model": "din", "train_path": (toys,), "test_path": (toys,), "out": out}
    return Options(**(QUIET | SMALL | given | {"valid_tail": 0.1} | changes))


@pytest.fixture(scope="module")
def run(toys, tmp_path_factory):
    out = tmp_path_factory.mktemp("din") / "run"
    return out, train.main(din(toys, out, attention=(4,), seed=1))


def test_din_trains_and_its_checkpoint_is_evaluated(toys, run):
    out, result = run
    assert set(result["test"]) == {"auc", "logloss"}
    assert train.main(Options(evaluate=out, test_path=(toys,)))["test"] == result["test"]


@pytest.mark.parametrize("encoder", ["mean", "sum", "simple", "self", "multi_window"])
def test_any_encoder_in_its_place(toys, tmp_path, encoder):
    more = {"attention": (4,)} if encoder == "multi_window" else {}
    assert 0.2 < train.main(din(toys, tmp_path / "run", encoder=encoder, **more))["valid"]["auc"] < 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "mean", "attention": (4,)}, "--attention: without effect with --encoder mean"),
        ({"model": "deepfm"}, "--model deepfm: histories .* no encoder for them"),
        (
            {"model": "rocket_launching", "without": ("hist_items", "hist_attrs"), "booster": False},
            "--hidden: without effect with --booster False",
        ),
        ({"without": ("users",)}, r"--without: got \['users'\]"),
        ({"without": ("hist_items", "hist_attrs")}, "no sequence field"),
    ],
)
def test_options_that_do_not_fit_are_refused(toys, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        train.main(din(toys, tmp_path / "run", **changes))


def test_a_picture_of_what_is_attended_to(toys, run, tmp_path):
    out, _ = run
    picture = attention.Picture(run=out, test_path=(toys,), out=tmp_path / "a.png")
    row = attention.main(picture)
    assert row % 2 == 0  # the next item, then the drawn one
    assert picture.out.stat().st_size > 5000
    with pytest.raises(FuncrecError, match="--row: got 80"):
        attention.main(attention.Picture(run=out, test_path=(toys,), row=80, out=tmp_path / "b.png"))


def test_the_weights_in_the_picture_are_those_of_the_model(toys, run):
    """They sum to 1 over real steps, and attributes in common are counted by sets."""
    saved = job.load_run(Options(evaluate=run[0], test_path=(toys,)))
    rows = saved.data.splits["test"].rows
    a = attention.attend(saved, experiment.build(saved.options, saved.data.fields), rows)
    steps = torch.arange(a.weights.shape[1]) < a.lengths[:, None]
    assert bool((a.weights[~steps] == 0).all())
    torch.testing.assert_close(a.weights.sum(1), torch.ones(len(rows)))
    table = pa.parquet.read_table(toys / "test.parquet").to_pylist()
    attrs = pa.parquet.read_table(toys / "items.parquet")["attrs"].to_pylist()
    for i in (0, 17, 79):
        expected = [len(set(attrs[table[i]["item"]]) & set(attrs[h])) for h in table[i]["hist_items"]]
        assert attention.shared_attributes(rows, saved.data.fields.shares, i) == expected


def test_two_towers_on_ratings_in_time_order(tmp_path):
    """The last ratings are the test rows, those before them the validation rows."""
    random = np.random.default_rng(0)
    user = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    user += "".join(f"{u}\t{20 + u}\t{'MF'[u % 2]}\tjob{u % 3}\t{u}\n" for u in range(1, 9))
    item = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    item += "".join(f"{i}\tFilm {i}\t{1990 + i % 5}\tDrama Comedy\n" for i in range(1, 9))
    inter = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    pairs = [(int(u), int(i)) for u, i in random.integers(1, 9, (400, 2))]
    inter += "".join(f"{u}\t{i}\t{3 + (u + i) % 2}\t{1000 + n}\n" for n, (u, i) in enumerate(pairs))
    for name, text in (("user", user), ("item", item), ("inter", inter)):
        (tmp_path / f"ml.{name}").write_text(text)
    given = {"data": "ml_100k", "train_path": (tmp_path,), "valid_tail": 0.1, "test_tail": 0.1}
    for model in ("multi_tower", "lr", "fm"):
        small = {"lr": {}, "fm": {"embedding_dim": 4}}.get(model, SMALL)
        result = train.main(Options(**(QUIET | small | given), model=model, out=tmp_path / model))
        assert {"train", "valid", "test"} <= set(result)
    splits = experiment.read(Options(**given)).splits
    times = {name: d.rows.features["time"] for name, d in splits.items()}
    assert [len(times[s]) for s in ("train", "valid", "test")] == [320, 40, 40]
    assert times["train"].max() < times["valid"].min() <= times["valid"].max() < times["test"].min()

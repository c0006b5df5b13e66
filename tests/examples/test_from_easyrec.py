"""The example that reads TorchEasyRec's configs, as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

from funcrec.core.errors import ConfigError, DataError
from funcrec.interop.easyrec import parse

SCRIPT = Path(__file__).parents[2] / "examples" / "from_easyrec.py"
sys.path.insert(0, str(SCRIPT.parent))
import from_easyrec  # noqa: E402
from easyrec_rows import Rows  # noqa: E402
from from_easyrec import Options  # noqa: E402

CONFIG = """
train_input_path: "{folder}/rows.{kind}"
eval_input_path: "{folder}/rows.{kind}"
train_config {{
  sparse_optimizer {{ adagrad_optimizer {{ lr: 0.1 }} constant_learning_rate {{}} }}
  dense_optimizer {{ adam_optimizer {{ lr: 0.01 }} constant_learning_rate {{}} }}
  num_epochs: 3
}}
data_config {{
  batch_size: 32 label_fields: "click" sample_weight_fields: "w" with_header: true fg_encoded_multival_sep: "^"
  {data}
}}
feature_configs {{ id_feature {{ feature_name: "item" num_buckets: 20 embedding_dim: 4 embedding_name: "item" }} }}
feature_configs {{ id_feature {{ feature_name: "tags" num_buckets: 9 embedding_dim: 4 pooling: "mean" }} }}
feature_configs {{ raw_feature {{ feature_name: "pair" value_dim: 2 }} }}
feature_configs {{ raw_feature {{ feature_name: "price" }} }}
feature_configs {{ sequence_feature {{ sequence_name: "seen" sequence_length: 9 sequence_delim: "|"
  features {{ id_feature {{ feature_name: "item" num_buckets: 20 embedding_dim: 4 embedding_name: "item" }} }}
  features {{ raw_feature {{ feature_name: "age" }} }} }} }}
feature_configs {{ sequence_id_feature {{ feature_name: "bags" num_buckets: 9 embedding_dim: 4
  value_dim: 0 sequence_delim: "|" }} }}
model_config {{
  feature_groups {{ group_name: "deep" feature_names: ["item", "tags", "pair", "price"] group_type: DEEP
    sequence_groups {{ group_name: "s" feature_names: ["item", "seen__item", "seen__age"] }}
    sequence_groups {{ group_name: "t" feature_names: ["tags", "bags"] }}
    sequence_encoders {{ din_encoder {{ input: "s" attn_mlp {{ hidden_units: 4 }} }} }}
    sequence_encoders {{ pooling_encoder {{ input: "t" }} }} }}
  multi_tower {{ towers {{ input: "deep" mlp {{ hidden_units: 8 }} }} final {{ hidden_units: 4 }} }}
  losses {{ binary_cross_entropy {{}} }}
  metrics {{ auc {{}} }}
  metrics {{ grouped_auc {{ grouping_key: "tags" }} }}
}}
"""
N = 70


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same rows twice: lists in Parquet, text in csv."""
    path = tmp_path_factory.mktemp("rows")
    random = np.random.default_rng(0)

    def draw(n: int, high: int) -> list[int]:
        return [int(x) for x in random.integers(0, high, n)]

    steps = draw(N, 4)
    columns: dict[str, Any] = {
        "item": draw(N, 20),
        "tags": [draw(draw(1, 3)[0], 9) for _ in range(N)],
        "pair": [[float(x) for x in draw(2, 9)] for _ in range(N)],
        "price": [float(x) for x in draw(N, 9)],
        "seen__item": [draw(n, 20) for n in steps],
        "seen__age": [[float(x) for x in draw(n, 9)] for n in steps],
        "bags": [[draw(1 + draw(1, 2)[0], 9) for _ in range(n)] for n in draw(N, 4)],
        "w": [1.0 + x for x in draw(N, 3)],
    }
    columns["click"] = [int(i < 10) for i in columns["item"]]
    pa.parquet.write_table(pa.table(columns | {"unused": [0] * N}), path / "rows.parquet")
    text = lambda cell, sep: sep.join(map(str, cell))  # noqa: E731
    columns["tags"] = [text(c, "^") for c in columns["tags"]]
    columns["pair"] = [text(c, "^") for c in columns["pair"]]
    columns["bags"] = [text([text(step, "^") for step in c], "|") for c in columns["bags"]]
    for name in ("seen__item", "seen__age"):
        columns[name] = [text(c, "|") for c in columns[name]]
    pa.csv.write_csv(pa.table(columns | {"unused": [0] * N}), path / "rows.csv")
    return path


def config(folder, kind="parquet", data="", edit=("", "")):
    path = folder / f"{kind}.config"
    path.write_text(CONFIG.format(folder=folder, kind=kind, data=data).replace(*edit))
    return path


def rows(folder, kind):
    return Rows(parse(config(folder, kind).read_text()), f"{folder}/rows.{kind}")


def test_lists_and_text_are_the_same_rows(folder):
    from_lists, from_text = rows(folder, "parquet"), rows(folder, "csv")
    assert len(from_lists) == len(from_text) == N
    order = torch.randperm(N)
    assert len(list(from_lists.batches(32, order, drop_last=True))) == 2
    for o in (None, order):
        for a, b in zip(from_lists.batches(32, o), from_text.batches(32, o), strict=True):
            assert (a.features == b.features).all()
            for name, x in a.ids.items():
                y = b.ids[name]
                x, y = getattr(x, "bags", x), getattr(y, "bags", y)
                same = torch.equal(x, y) if isinstance(x, torch.Tensor) else torch.equal(x.values, y.values)
                assert same, name


def test_order_is_the_order_of_rows(folder):
    all_rows = next(rows(folder, "parquet").batches(N))
    order = torch.arange(N).flip(0)
    flipped = next(rows(folder, "parquet").batches(N, order))
    assert torch.equal(flipped.features["label"], all_rows.features["label"][order])
    assert torch.equal(flipped.features["dense"]["pair"], all_rows.features["dense"]["pair"][order])


def test_training_learns_and_its_weights_are_read_back(folder, tmp_path):
    quiet = {"config": config(folder, data="shuffle: true"), "progress": False}
    trained = from_easyrec.main(Options(**quiet, epochs=30, out=tmp_path))
    assert trained["batches"] == 30 * 3
    assert trained["auc"] > 0.95
    again = from_easyrec.main(Options(**quiet, weights=tmp_path / "weights.safetensors", train=False, out=tmp_path))
    assert {name: again[name] for name in ("auc", "grouped_auc", "binary_cross_entropy")} == {
        name: trained[name] for name in ("auc", "grouped_auc", "binary_cross_entropy")
    }


@pytest.mark.parametrize(("edit", "batches"), [(("", ""), 9), (("num_epochs: 3", "num_steps: 4"), 4)])
def test_the_config_says_how_long(folder, tmp_path, edit, batches):
    o = Options(config=config(folder, edit=edit), progress=False, out=tmp_path, plan="sharded")
    assert from_easyrec.main(o)["batches"] == batches


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (('"price" }', '"cost" }'), ConfigError, "feature 'price' is not in feature_configs"),
        (("with_header: true", ""), DataError, "neither a header nor input_fields"),
        (('label_fields: "click"', 'label_fields: "clicks"'), DataError, r"columns \['clicks'\] are not there"),
        (
            ("value_dim: 2", "value_dim: 3"),
            DataError,
            "column 'pair': numbers in one cell: got 2",
        ),
        (("value_dim: 0", "value_dim: 1"), DataError, "column 'bags': got a step with no or several ids"),
        (('"tags" num_buckets: 9', '"tags" num_buckets: 2'), DataError, "feature 'tags': id out of range"),
        (("rows.csv", "row.csv"), DataError, "no such file"),
        (('label_fields: "click"', 'label_fields: "pair"'), DataError, "column 'pair': Failed to parse string"),
        (("batch_size: 32", "batch_size: 99 drop_remainder: true"), DataError, "batches of 99: got 70 rows"),
    ],
)
def test_bad_input_gets_a_sentence(folder, tmp_path, edit, error, message):
    with pytest.raises(error, match=message):
        from_easyrec.main(Options(config=config(folder, "csv", edit=edit), progress=False, out=tmp_path))


def test_the_script_by_hand(folder, tmp_path):
    """From another folder, by the command line; the last line is the result."""
    given = ["--config", str(config(folder)), "--out", str(tmp_path), "--epochs", "1", "--no-progress"]
    run = lambda *more: subprocess.run(  # noqa: E731
        [sys.executable, str(SCRIPT), *given, *more], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    ran = run()
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert json.loads(ran.stdout.splitlines()[-1])["model"] == "multi_tower"
    ran = run("--no-train")
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: --no-train: got no --weights")

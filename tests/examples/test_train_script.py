"""The training script as a user runs it: results, resuming after a kill, and what bad input gets."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import pytest

from funcrec.core.errors import CheckpointError, ConfigError, DataError, FuncrecError
from funcrec.core.random import key
from funcrec.data import Categorical, Label, Numeric, Range, Schema, planted

SCRIPT = Path(__file__).parents[2] / "examples" / "train.py"
sys.path.insert(0, str(SCRIPT.parent))
import train  # noqa: E402
from options import ModelName, Options  # noqa: E402

QUIET = {"tensorboard": False, "progress": False, "epochs": 2, "batch_size": 256}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small planted data set as csv files with its schema."""
    folder = tmp_path_factory.mktemp("planted")
    p = planted(key(1), 2000, valid_rows=500, test_rows=500)
    paths = {split: Path(path) for split, path in p.write_csv(folder).items()}
    (folder / "schema.json").write_text(p.schema.to_json())
    return paths | {"schema": folder / "schema.json"}


def options(files, out, **changes):
    given = {
        "data": "csv",
        "schema": files["schema"],
        "train_path": (files["train"],),
        "valid_path": (files["valid"],),
        "out": out,
    }
    small = {} if changes.get("model") in ("lr", "fm") else {"hidden": (16,)}
    return Options(**(QUIET | small | given | changes))


SMALL: dict[str, dict[str, Any]] = {
    "rocket_launching": {"light": (16,)},
    "multi_tower": {"user_fields": ("f0", "f1")},
    "xdeepfm": {"cin": (4,)},
    "wukong": {"wukong_hidden": (8,)},
}
WITHOUT_HISTORIES = [m for m in get_args(ModelName) if m != "din"]  # din has its own data below


@pytest.mark.parametrize("model", WITHOUT_HISTORIES)
def test_every_model_trains_and_reports(files, tmp_path, model):
    out = tmp_path / "run"
    result = train.main(options(files, out, model=model, test_path=(files["test"],), **SMALL.get(model, {})))
    assert set(result) >= {
        "model",
        "seed",
        "parameters",
        "epochs",
        "seconds",
        "rows_per_second",
        "train",
        "valid",
        "test",
    }
    assert all(
        0.4 < result[split]["auc"] < 1.0 and result[split]["logloss"] > 0.3 for split in ("train", "valid", "test")
    )
    json.dumps(result)
    with (out / "predictions.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 500
    assert all(0.0 <= float(r["probability"]) <= 1.0 for r in rows)
    assert (out / "learning_curve.png").stat().st_size > 5000
    evaluated = train.main(Options(evaluate=out, test_path=(files["test"],)))
    assert evaluated["test"] == result["test"]


def test_a_stream_trains_too(files, tmp_path):
    result = train.main(options(files, tmp_path / "run", stream=True, accumulate=2, max_norm=1.0))
    assert result["epochs"] == 2
    assert result["valid"]["auc"] > 0.4


def command(files, out, *more):
    arguments = ["--data", "csv", "--schema", str(files["schema"]), "--train-path", str(files["train"])]
    arguments += ["--valid-path", str(files["valid"]), "--out", str(out), "--epochs", "2", "--batch-size", "16"]
    arguments += ["--hidden", "16", "--dropout", "0.2", "--checkpoint-steps", "20", "--no-tensorboard", "--no-progress"]
    return [sys.executable, str(SCRIPT), *arguments, *more]


def test_kill_9_in_the_middle_of_an_epoch_then_resume_is_bit_for_bit(files, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    reference = subprocess.Popen(command(files, whole), env=environment, stdout=subprocess.DEVNULL)
    victim = subprocess.Popen(command(files, cut), env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not any((cut / "checkpoints").glob("step-00000[04]*")) and time.monotonic() < deadline:
        assert victim.poll() is None, "it ended before its first checkpoint"
        time.sleep(0.002)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    resumed = subprocess.run(
        command(files, cut, "--resume"), env=environment, capture_output=True, text=True, check=True
    )
    assert reference.wait() == 0
    assert "resuming at epoch" in resumed.stdout
    assert (cut / "losses.csv").read_text() == (whole / "losses.csv").read_text()
    assert (cut / "predictions.csv").read_text() == (whole / "predictions.csv").read_text()


def changed(files, tmp_path, edit):
    """The training file with one line changed."""
    lines = files["train"].read_text().splitlines()
    path = tmp_path / "bad.csv"
    path.write_text("\n".join(edit(lines)) + "\n")
    return (path,)


def cell(lines, row, column, value):
    header = [h.strip('"') for h in lines[0].split(",")]
    cells = lines[row - 1].split(",")
    cells[header.index(column)] = value
    return [*lines[: row - 1], ",".join(cells), *lines[row:]]


BAD_LINES = {
    "non-numeric text": (lambda ls: cell(ls, 7, "x0", "abc"), r"bad\.csv.*line 7.*'x0'.*'abc'"),
    "nan": (lambda ls: cell(ls, 9, "x0", "nan"), r"line 9.*'x0'.*nan"),
    "inf": (lambda ls: cell(ls, 9, "x0", "inf"), r"line 9.*'x0'.*inf"),
    "label": (lambda ls: cell(ls, 5, "label", "2"), r"line 5.*'label'.*2"),
    "columns": (lambda ls: [*ls[:4], ls[4] + ",1", *ls[5:]], r"bad\.csv.*line 5"),
    "id": (lambda ls: cell(ls, 11, "f0", "99999"), r"line 11.*'f0'.*99999"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_named_and_nothing_is_written(files, tmp_path, kind):
    edit, pattern = BAD_LINES[kind]
    out = tmp_path / "run"
    path = changed(files, tmp_path, edit)
    with pytest.raises(DataError, match=pattern):
        train.main(options(files, out, train_path=path))
    assert not out.exists()
    result = train.main(options(files, out, train_path=path, max_bad_rows=1, epochs=1))
    assert result["epochs"] == 1


def test_other_bad_input_is_named(files, tmp_path):
    out = tmp_path / "run"
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    cases: list[tuple[dict, type[FuncrecError], str]] = [
        ({"train_path": (tmp_path / "none.csv",)}, DataError, "none.csv"),
        ({"train_path": (empty,)}, DataError, "empty"),
        ({"train_path": ()}, ConfigError, "no --train-path"),
        ({"schema": None}, ConfigError, "no --schema"),
        ({"schema": tmp_path / "none.json"}, ConfigError, "no file"),
        ({"l2": 0.1, "tables": "adam"}, ConfigError, "needs dense"),
        ({"valid_tail": 0.2}, ConfigError, "valid-tail"),
        ({"model": "lr", "dropout": 0.1}, ConfigError, "--dropout: lr has no such part"),
        ({"data": "synthetic"}, ConfigError, "--train-path has no effect with --data synthetic"),
        ({"data": "frappe"}, ConfigError, "--schema has no effect with --data frappe"),
        ({"cross_layers": 2}, ConfigError, "--cross-layers: deepfm has no such part"),
    ]
    for changes, error, pattern in cases:
        with pytest.raises(error, match=pattern):
            train.main(options(files, out, **changes))
        assert not out.exists()


def test_columns_that_the_schema_and_the_file_do_not_share_are_named(files, tmp_path):
    schema = Schema.from_json(files["schema"].read_text())
    path = tmp_path / "schema.json"
    path.write_text(dataclasses.replace(schema, columns=schema.columns[1:]).to_json())
    with pytest.raises(DataError, match=schema.columns[0].name):
        train.main(options(files, tmp_path / "run", schema=path))
    path.write_text(dataclasses.replace(schema, columns=(*schema.columns, Numeric(name="dense_9"))).to_json())
    with pytest.raises(DataError, match=r"no column 'dense_9'.*'x0'"):
        train.main(options(files, tmp_path / "run", schema=path))


def test_one_class_only_is_an_error_of_the_metric(tmp_path):
    for name, labels in (("train", "01"), ("valid", "11")):
        rows = "".join(f"{i % 3},{labels[i % 2]}\n" for i in range(20))
        (tmp_path / f"{name}.csv").write_text("f,label\n" + rows)
    schema = Schema(columns=(Categorical(name="f", encoding=Range(rows=3)),), label=Label(name="label"))
    (tmp_path / "schema.json").write_text(schema.to_json())
    files = {n: tmp_path / f"{n}.csv" for n in ("train", "valid")} | {"schema": tmp_path / "schema.json"}
    with pytest.raises(DataError, match=r"auc is undefined.*20 rows"):
        train.main(options(files, tmp_path / "run", model="lr"))


def test_a_run_is_not_overwritten_and_another_config_not_resumed(files, tmp_path):
    out = tmp_path / "run"
    train.main(options(files, out, epochs=1))
    with pytest.raises(ConfigError, match="already holds a run"):
        train.main(options(files, out, epochs=1))
    with pytest.raises(CheckpointError, match=r"options.embedding_dim: 16 -> 8"):
        train.main(options(files, out, resume=True, embedding_dim=8))
    half = tmp_path / "half.csv"
    half.write_text("\n".join(files["train"].read_text().splitlines()[:1001]) + "\n")
    with pytest.raises(CheckpointError, match=r"train_rows: 2000 -> 1000"):
        train.main(options(files, out, resume=True, epochs=2, train_path=(half,)))
    longer = train.main(options(files, out, resume=True, epochs=2))
    assert longer["epochs"] == 2
    state = next((out / "checkpoints").glob("step-*")) / "run.pt"
    for step in (out / "checkpoints").glob("step-*"):
        state = step / "run.pt"
        state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"run.pt is truncated"):
        train.main(Options(evaluate=out, test_path=(files["test"],)))


def test_a_diverging_run_stops_with_the_step_and_keeps_the_last_checkpoint(files, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(FuncrecError, match=r"step \d+: the loss is not finite.*first bad tensor"):
        train.main(
            options(files, out, optimizer="sgd", tables="dense", learning_rate=1e30, checkpoint_steps=1, epochs=9)
        )
    assert list((out / "checkpoints").glob("step-*"))


def test_errors_reach_the_shell_as_one_line_and_an_exit_code(files, tmp_path):
    out = subprocess.run(
        [sys.executable, str(SCRIPT), "--data", "frappe", "--train-path", str(tmp_path / "none.csv")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 1
    assert out.stderr.startswith("error: ")
    assert "none.csv" in out.stderr
    assert "Traceback" not in out.stderr


def test_quickstart_runs(tmp_path):
    script = SCRIPT.with_name("quickstart.py")
    out = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "logits of five models: (5, 10000, 1)" in out.stdout

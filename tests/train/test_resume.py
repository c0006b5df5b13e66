"""Checkpoints: a run cut anywhere and continued from disk is, bit for bit, the run that was not cut."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funcrec import metrics, optim
from funcrec.core import tree
from funcrec.core.errors import CheckpointError, ConfigError, NonFiniteError
from funcrec.core.random import key
from funcrec.layers.mlp import MLPConfig
from funcrec.train import FitConfig, Run, best_of, checkpoint, evaluate, fit
from tests.train.tiny import STORES, Rows, data, step

TRAIN, VALID = Rows(data(50, 1, dtype=torch.float32)), Rows(data(40, 2, dtype=torch.float32))
METRICS = {"auc": metrics.auc()}
MLP = MLPConfig(hidden_units=(6, 4), dropout=0.2, use_bn=True)


def config(**changes):
    return FitConfig(**({"batch_size": 8, "epochs": 3, "reduce": 0.5} | changes))


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict) or hasattr(a, "items"):
        return sorted(a.keys()) == sorted(b.keys()) and all(same(a[k], b[k]) for k in a.keys())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.mark.parametrize("store", STORES)
@settings(max_examples=4)
@given(cut=st.integers(1, 20), accumulate=st.integers(1, 3))
def test_a_run_cut_anywhere_continues_bit_for_bit(tmp_path_factory, store, cut, accumulate):
    root = tmp_path_factory.mktemp("run")
    s = step(store, mlp=MLP, dtype=torch.float32)
    c = config(accumulate=accumulate)

    def go(run):
        return fit(run, s, TRAIN, c, valid=VALID, metrics=METRICS)

    whole = [(r.loss, r.metrics) for r in go(Run(s.init(key(0))))]
    first, reports = [], go(Run(s.init(key(0))))
    for r in reports:
        first.append((r.loss, r.metrics))
        if len(first) == min(cut, len(whole) - 1):
            break
    checkpoint.save(root, r.run, {"x": 1})
    resumed, _ = checkpoint.load(checkpoint.latest(root), {"x": 1})
    assert same(resumed._asdict(), r.run._asdict())
    rest = [(r.loss, r.metrics) for r in go(resumed)]
    assert first + rest == whole


def test_a_run_that_never_reads_its_losses_is_the_same_run(tmp_path):
    stories = []
    for check in (True, False):
        s = step(("rowwise", "adagrad"), mlp=MLP, dtype=torch.float32, check_finite=check)
        losses, run = [], Run(s.init(key(0)))
        for r in fit(run, s, TRAIN, config(), valid=VALID, metrics=METRICS):
            losses.append((r.loss, r.metrics))
            if len(losses) == 4:  # in the midst of an epoch: its sum of losses is a tensor then
                checkpoint.save(tmp_path / str(check), r.run, {})
        resumed, _ = checkpoint.load(checkpoint.latest(tmp_path / str(check)), {})
        losses += [(r.loss, r.metrics) for r in fit(resumed, s, TRAIN, config(), valid=VALID, metrics=METRICS)]
        stories.append([(float(loss), m) for loss, m in losses])
    assert stories[0] == stories[1]


def test_early_stopping_reduces_the_rate_and_keeps_the_best_weights():
    # a learning rate that wrecks the model: the first epoch is the best
    s = step(("rowwise", "sgd"), optim.sgd(lambda k: 0.05 if k < 7 else 30.0), dtype=torch.float32)
    epochs, kept = [], None
    for r in fit(Run(s.init(key(0))), s, TRAIN, config(epochs=50, patience=2), valid=VALID, metrics=METRICS):
        if r.metrics:
            epochs.append(r.metrics["auc"])
            if len(epochs) == 1 + epochs.index(max(epochs)):
                kept = evaluate(s, r.run.train, VALID, METRICS)["auc"]
    best = max(epochs)
    assert len(epochs) == 1 + epochs.index(best) + 2, "two epochs without gain, then it stops"
    assert evaluate(s, best_of(r.run), VALID, METRICS)["auc"] == best == kept
    assert r.run.scale == 0.25
    assert float(r.run.train.tables["scale"]) == 0.25


def saved(tmp_path, about=None):
    s = step(dtype=torch.float32)
    run = Run(s.init(key(0)))
    return checkpoint.save(tmp_path, run, about or {"model": {"dim": 4, "layers": [2, 3]}, "seed": 1}), run


def test_another_config_is_refused_field_by_field(tmp_path):
    path, _ = saved(tmp_path)
    with pytest.raises(CheckpointError, match=r"another config.*model.dim: 4 -> 8; model.layers\[1\]: 3 -> 5") as e:
        checkpoint.load(path, {"model": {"dim": 8, "layers": [2, 5]}, "seed": 1})
    assert "seed" not in str(e.value)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "meta"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    path, _ = saved(tmp_path)
    file = path / "run.pt"
    whole = file.read_bytes()
    if damage == "truncate":
        file.write_bytes(whole[: len(whole) // 2])
    elif damage == "flip":
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    elif damage == "remove":
        file.unlink()
    else:
        (path / "meta.json").write_text((path / "meta.json").read_text()[:-40])
    words = {"truncate": "run.pt is truncated", "flip": "run.pt is damaged", "remove": "missing", "meta": "damaged"}
    with pytest.raises(CheckpointError, match=words[damage]):
        checkpoint.load(path)


def test_an_interrupted_save_leaves_the_earlier_checkpoint_and_nothing_else(tmp_path):
    path, run = saved(tmp_path)

    def stops_half_way(folder):
        (folder / "half").write_text("written")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(
            tmp_path, run._replace(train=run.train._replace(step=run.train.step + 1)), {}, beside=stops_half_way
        )
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    checkpoint.load(checkpoint.latest(tmp_path))


@pytest.mark.parametrize("where", ["params", "tables"])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, where):
    path, run = saved(tmp_path)
    tree.leaves(run.train.params if where == "params" else run.train.tables["weights"])[0].fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=rf"checkpoint of step 1: got {where}[.]"):
        checkpoint.save(tmp_path, run._replace(train=run.train._replace(step=torch.tensor(1))), {}, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_only_the_newest_are_kept_and_files_beside_are_hashed(tmp_path):
    _, run = saved(tmp_path)
    for i in range(4):
        moved = run._replace(train=run.train._replace(step=torch.tensor(i + 1)))
        path = checkpoint.save(tmp_path, moved, {}, keep=2, beside=lambda d: (d / "words.txt").write_text("a b c"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]
    assert "words.txt" in json.loads((path / "meta.json").read_text())["files"]
    (path / "words.txt").write_text("a b d")
    with pytest.raises(CheckpointError, match=r"words.txt is damaged"):
        checkpoint.read_meta(path)


def test_metric_states_are_no_part_of_a_checkpoint(tmp_path):
    s = step(dtype=torch.float32)
    *_, r = fit(Run(s.init(key(0))), s, TRAIN, config(epochs=1), valid=VALID, metrics=METRICS)
    path = checkpoint.save(tmp_path, r.run, {})
    contents = torch.load(path / "run.pt", weights_only=True)
    assert sorted(contents) == ["best", "train"]
    assert sorted(contents["best"]) == ["epoch", "metric", "params", "state", "weights"]
    assert not any("auc" in p or "chunk" in p for p in tree.paths(r.run.train.state))


def test_empty_data_and_unknown_monitors_are_errors():
    s = step(dtype=torch.float32)
    with pytest.raises(ConfigError, match="no rows"):
        list(fit(Run(s.init(key(0))), s, Rows(data(0, dtype=torch.float32)), config()))
    with pytest.raises(ConfigError, match=r"monitor: got 'gauc', expected one of \['auc'\]"):
        list(fit(Run(s.init(key(0))), s, TRAIN, config(monitor="gauc"), valid=VALID, metrics=METRICS))
    with pytest.raises(CheckpointError, match="no checkpoint under"):
        checkpoint.latest("/nowhere")
    with pytest.raises(ConfigError, match="epochs: got 0"):
        config(epochs=0)

"""Checkpoints: a directory that is there whole or not at all, and that says what it belongs to.

    <root>/step-00001200/
        run.pt       tensors: weights, tables, optimizer states, best weights, key
        tables/      instead of those in run.pt: tables and their best weights that lie in many processes
        meta.json    format, position, history, the caller's description (model config, schema, …), sizes and hashes
        …            whatever else the caller puts beside it (vocabularies)

It is written under a temporary name, flushed, then renamed: a kill at any moment leaves the previous one intact.
Metric states are no part of it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict

from funcrec.core import tree
from funcrec.core.errors import CheckpointError, ConfigError, NonFiniteError, fail
from funcrec.core.replicas import Keeper, Replicas, alone
from funcrec.train.comparing import differences, placed
from funcrec.train.finite import first_bad
from funcrec.train.fit import Run, loss_of_all
from funcrec.train.folder import read_meta, write_folder
from funcrec.train.state import TrainState

__all__ = ["differences", "latest", "load", "read_meta", "save"]

_POSITION = ("epoch", "batch", "loss_sum", "steps", "stale", "scale", "history")
_TREES = ("params", "state", "weights")


def _plain(x: Any) -> Any:
    """TensorDicts as nested dicts: what ``torch.load(weights_only=True)`` accepts."""
    if isinstance(x, TensorDict):
        return {k: _plain(v) for k, v in x.items()}
    if isinstance(x, dict):
        return {k: _plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(v) for v in x]
    return x


def save(
    root: str | Path,
    run: Run,
    about: Mapping[str, Any],
    *,
    keep: int = 2,
    beside: Callable[[Path], object] | None = None,
    replicas: Replicas | None = None,
) -> Path:
    """Write the run's checkpoint under ``root`` and delete all but the newest ``keep``.

    Args:
        about: what the weights belong to, JSON-serializable: model config, schema, options. Compared on ``load``.
        beside: writes further files into the directory before it becomes visible.
        replicas: all processes of a run save it together, into a file system that all of them see: the first one
            writes what all have, and, with a keeper, each its own part of the tables.

    Raises:
        NonFiniteError: a weight is NaN or infinite, in any process; the earlier checkpoints are kept.
        ConfigError: tables that lie in many processes, without a keeper of them.
    """
    ts, others, root = run.train, replicas or alone(), Path(root)
    keeper, apart = others.keeper, "weights" not in ts.tables
    if apart and keeper is None:
        fix = "give save replicas(group, keeper=keeper(spec, rule, group)) of funcrec.shard"
        fail(ConfigError, "checkpoint: tables", got="those of a sharded store", expected="a keeper of them", fix=fix)
    weights = keeper.memory(ts.tables) if apart and keeper else ts.tables["weights"]
    bad = first_bad({"params": ts.params, "tables": weights, "state": ts.state})
    if bad := next(filter(None, others.gathered(bad)), None):
        fail(NonFiniteError, f"checkpoint of step {int(ts.step)}", got=bad, fix="the earlier checkpoints are kept")
    loss_sum = loss_of_all(run.loss_sum, others)
    best = run.best

    def first(folder: Path) -> None:
        held: dict[str, Any] = {"train": ts._asdict(), "best": best}
        if apart:
            held["train"] |= {"tables": {}}
            held["best"] = best and {name: x for name, x in best.items() if name != "weights"}
        torch.save(_plain(held), folder / "run.pt")
        if beside:
            beside(folder)

    def everybody(folder: Path) -> None:
        assert keeper is not None
        keeper.write(folder / "tables", ts.tables, best and best.get("weights"))

    def delete_older() -> None:
        for old in sorted(root.glob("step-*"))[:-keep]:
            shutil.rmtree(old)

    final = root / f"step-{int(ts.step):08d}"
    position = {name: getattr(run, name) for name in _POSITION} | {"loss_sum": loss_sum}
    meta = {"position": position, "about": dict(about)}
    write_folder(final, meta, others, first=first, everybody=everybody if apart else None, then=delete_older)
    return final


def latest(root: str | Path) -> Path:
    """The newest checkpoint under ``root`` (or ``root`` itself, where it is one)."""
    root = Path(root)
    if (root / "meta.json").exists():
        return root
    found = sorted(root.glob("step-*"))
    if not found:
        fail(CheckpointError, f"no checkpoint under {root}", fix="give a run directory or a step-* directory")
    return found[-1]


def load(
    path: str | Path,
    about: Mapping[str, Any] | None = None,
    *,
    into: Run | None = None,
    replicas: Replicas | None = None,
) -> tuple[Run, dict[str, Any]]:
    """A run and its meta data; with ``about``, an error that lists the fields in which the checkpoint differs.

    A checkpoint does not say how many processes wrote it, nor how its tables were sharded: any number reads it, under
    any sharding or none, and a local one is read into a sharded store.

    Args:
        into: a fresh run, ``Run(step.init(key))``, on whose devices the tensors arrive and whose tables are written:
            needed where tables lie, or lay when they were saved, in many processes.
        replicas: all processes load together; with a keeper of tables that lie, or lay, in many of them.

    Raises:
        CheckpointError: a damaged checkpoint, another ``about``, tensors that ``into`` does not have or has in another
            shape, tables in many processes without ``into`` and a keeper.
    """
    path, others = Path(path), replicas or alone()
    meta = read_meta(path, others)
    if about is not None:
        differing = differences(meta["about"], json.loads(json.dumps(dict(about))))
        if differing:
            fail(
                CheckpointError,
                f"checkpoint {path} is of another config; fields (saved -> wanted): {'; '.join(differing[:20])}",
                fix="resume with the saved options, or start a new run directory",
            )
    # Tensors return to the devices they were saved from, or to the CPU where there is no GPU, or to those of ``into``.
    place = None if torch.cuda.is_available() and into is None else "cpu"
    apart = into is not None and "weights" not in into.train.tables  # of whose tables each process takes a part
    saved = torch.load(path / "run.pt", weights_only=True, map_location=place, mmap=apart)
    t, best = saved["train"], saved["best"]
    if apart or not t["tables"]:
        t["tables"], weights = _tables_apart(path, t["tables"], best or {}, into, others.keeper)
        best = best if weights is None else {**best, "weights": weights}
    if into is not None:
        like = into.train._asdict()
        t = {name: x if name == "tables" and apart else placed(x, like[name], name) for name, x in t.items()}
        like |= {name: like["tables"][name] for name in ("weights", "zch") if name in like["tables"]}
        best = best and {name: placed(x, like[name], f"best.{name}") if name in like else x for name, x in best.items()}
    for entry in (t, t["tables"], best or {}):
        entry |= {name: tree.tree(entry[name]) for name in _TREES if isinstance(entry.get(name), dict)}
    position = meta["position"] | {"history": tuple(meta["position"]["history"])}
    return Run(train=TrainState(**t), best=best, **position), meta


def _tables_apart(
    path: Path, saved: dict[str, Any], best: dict[str, Any], into: Run | None, keeper: Keeper | None
) -> tuple[dict[str, Any], Any]:
    """Tables, and their best weights (or None), where they lie or were saved in many processes."""
    if into is None or keeper is None:
        fix = "give load into=Run(step.init(key)) and replicas(keeper=keeper(spec, rule)) of funcrec.shard"
        fail(CheckpointError, f"checkpoint {path}", got="tables in many processes", expected="a keeper", fix=fix)
    if saved:
        return keeper.adopt(into.train.tables, saved, best.get("weights"))
    return keeper.read(path / "tables", into.train.tables, "params" in best)  # copies of both or of none

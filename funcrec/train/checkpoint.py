"""Checkpoints: a directory that is there whole or not at all, and that says what it belongs to.

    <root>/step-00001200/
        run.pt       tensors: weights, tables, optimizer states, best weights, key
        meta.json    format, position, history, the caller's description (model config, schema, …), sizes and hashes
        …            whatever else the caller puts beside it (vocabularies)

It is written under a temporary name, flushed, then renamed: a kill at any moment leaves the previous one intact.
Metric states are no part of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict

from funcrec.core import tree
from funcrec.core.errors import CheckpointError, NonFiniteError, fail
from funcrec.train.finite import first_bad
from funcrec.train.fit import Run
from funcrec.train.state import TrainState

FORMAT = 1
_POSITION = ("epoch", "batch", "loss_sum", "steps", "stale", "scale", "history")


def _plain(x: Any) -> Any:
    """TensorDicts as nested dicts: what ``torch.load(weights_only=True)`` accepts."""
    if isinstance(x, TensorDict):
        return {k: _plain(v) for k, v in x.items()}
    if isinstance(x, dict):
        return {k: _plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(v) for v in x]
    return x


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def save(
    root: str | Path,
    run: Run,
    about: Mapping[str, Any],
    *,
    keep: int = 2,
    beside: Callable[[Path], object] | None = None,
) -> Path:
    """Write the run's checkpoint under ``root`` and delete all but the newest ``keep``.

    Args:
        about: what the weights belong to, JSON-serializable: model config, schema, options. Compared on ``load``.
        beside: writes further files into the directory before it becomes visible.

    Raises:
        NonFiniteError: a weight is NaN or infinite; the earlier checkpoints are kept.
    """
    ts = run.train
    bad = first_bad({"params": ts.params, "tables": ts.tables["weights"], "state": ts.state})
    if bad:
        fail(NonFiniteError, f"checkpoint of step {int(ts.step)}", got=bad, fix="the earlier checkpoints are kept")
    root = Path(root)
    final = root / f"step-{int(run.train.step):08d}"
    temporary = root / f".writing-{os.getpid()}-{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        torch.save(_plain({"train": run.train._asdict(), "best": run.best}), temporary / "run.pt")
        if beside:
            beside(temporary)
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        position = {name: getattr(run, name) for name in _POSITION} | {"loss_sum": float(run.loss_sum)}
        meta = {
            "format": FORMAT,
            "position": position,
            "about": dict(about),
            "files": {str(p.relative_to(temporary)): {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in files},
        }
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1))
        for p in [*files, temporary / "meta.json", temporary]:
            _sync(p)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        _sync(root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in sorted(root.glob("step-*"))[:-keep]:
        shutil.rmtree(old)
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


def read_meta(path: str | Path) -> dict[str, Any]:
    """The description and position of a checkpoint, after checking every file's size and hash."""
    path = Path(path)
    try:
        meta = json.loads((path / "meta.json").read_text())
    except FileNotFoundError:
        fail(CheckpointError, f"checkpoint {path}: no meta.json", fix="it is no checkpoint, or an incomplete copy")
    except json.JSONDecodeError as e:
        fail(CheckpointError, f"checkpoint {path}: meta.json is damaged", got=str(e), fix="use an earlier checkpoint")
    if meta.get("format") != FORMAT:
        fail(CheckpointError, f"checkpoint {path}: format", got=meta.get("format"), expected=FORMAT)
    for name, entry in meta["files"].items():
        file = path / name
        seen = file.stat().st_size if file.exists() else None
        if seen != entry["bytes"]:
            fail(
                CheckpointError,
                f"checkpoint {path}: {name} is truncated or missing",
                got="no file" if seen is None else f"{seen} bytes",
                expected=f"{entry['bytes']} bytes",
                fix="use an earlier checkpoint",
            )
        if _sha256(file) != entry["sha256"]:
            fail(CheckpointError, f"checkpoint {path}: {name} is damaged", got="another hash", fix="use an earlier one")
    return meta


def differences(saved: Any, wanted: Any, path: str = "") -> list[str]:
    """The fields in which two JSON values differ, as ``field: saved -> wanted``."""
    if isinstance(saved, dict) and isinstance(wanted, dict):
        names = dict.fromkeys([*saved, *wanted])
        missing = "<none>"
        parts = [
            differences(saved.get(k, missing), wanted.get(k, missing), f"{path}.{k}" if path else k) for k in names
        ]
        return [line for part in parts for line in part]
    if isinstance(saved, list) and isinstance(wanted, list) and len(saved) == len(wanted):
        return [
            x for i, (a, b) in enumerate(zip(saved, wanted, strict=True)) for x in differences(a, b, f"{path}[{i}]")
        ]
    return [] if saved == wanted else [f"{path}: {saved!r} -> {wanted!r}"]


def load(path: str | Path, about: Mapping[str, Any] | None = None) -> tuple[Run, dict[str, Any]]:
    """A run and its meta data; with ``about``, an error that lists the fields in which the checkpoint differs."""
    path = Path(path)
    meta = read_meta(path)
    if about is not None:
        differing = differences(meta["about"], json.loads(json.dumps(dict(about))))
        if differing:
            fail(
                CheckpointError,
                f"checkpoint {path} is of another config; fields (saved -> wanted): {'; '.join(differing[:20])}",
                fix="resume with the saved options, or start a new run directory",
            )
    # Tensors return to the devices they were saved from, or to the CPU where there is no GPU.
    saved = torch.load(path / "run.pt", weights_only=True, map_location=None if torch.cuda.is_available() else "cpu")
    t, best = saved["train"], saved["best"]
    for entry in (t, *([best] if best else [])):
        for name in ("params", "state", "weights"):
            if name in entry:
                entry[name] = tree.tree(entry[name])
    t["tables"]["weights"] = tree.tree(t["tables"]["weights"])
    position = meta["position"] | {"history": tuple(meta["position"]["history"])}
    return Run(train=TrainState(**t), best=best, **position), meta

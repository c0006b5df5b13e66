"""A folder that is there whole or not at all, written by one process or by many together, and checked when it is read.

It is written under a temporary name, flushed, then renamed: a kill at any moment leaves no half of one. ``meta.json``
says what is in it, with the size and hash of every file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from funcrec.core.errors import CheckpointError, fail
from funcrec.core.replicas import Replicas, alone

T = TypeVar("T")
FORMAT = 1


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def agreed(others: Replicas, work: Callable[[], T]) -> list[T]:
    """What ``work`` returned in each process. Where it failed in one, all raise, and nobody waits for it in vain.

    Raises:
        CheckpointError: in the processes where it did not fail; in the others their own error.
    """
    if others.world == 1:
        return [work()]
    result, error = None, None
    try:
        result = work()
    except Exception as e:
        error = e
    answers = others.gathered((result, None if error is None else f"{type(error).__name__}: {error}"))
    if error is not None:
        raise error
    for rank, (_, message) in enumerate(answers):
        if message is not None:
            fail(CheckpointError, f"process {rank}", got=message, fix="look at the traceback of that process")
    return [found for found, _ in answers]


def _nothing() -> None:
    """The work of a process while another writes."""


def write_folder(
    final: Path,
    meta: Mapping[str, Any],
    others: Replicas,
    *,
    first: Callable[[Path], object],
    everybody: Callable[[Path], object] | None = None,
    then: Callable[[], object] = _nothing,
) -> None:
    """Make the folder ``final``, in place of one that is there, all processes together.

    Args:
        meta: what ``meta.json`` says beside the files.
        first: writes files into it, in process 0 alone.
        everybody: then writes files into it, in every process.
        then: what process 0 does when the folder is there.
    """
    main, root = others.rank == 0, final.parent
    temporary = root / f".writing-{others.gathered(os.getpid())[0]}-{final.name}"

    def begin() -> None:
        for left in root.glob(f".writing-*-{final.name}"):  # by a run that was killed here
            shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir(parents=True)
        first(temporary)

    def names() -> list[str]:
        return sorted(str(p.relative_to(temporary)) for p in temporary.rglob("*") if p.is_file())

    def describe(names: list[str]) -> dict[str, dict[str, Any]]:
        """Sizes and hashes of the files, flushed."""
        for name in names:
            _sync(temporary / name)
        paths = {name: temporary / name for name in names}
        return {name: {"bytes": p.stat().st_size, "sha256": _sha256(p)} for name, p in paths.items()}

    def finish() -> None:
        (temporary / "meta.json").write_text(json.dumps({"format": FORMAT, **meta, "files": files}, indent=1))
        for p in [temporary / "meta.json", *(p for p in temporary.rglob("*") if p.is_dir()), temporary]:
            _sync(p)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        _sync(root)
        then()

    try:
        agreed(others, begin if main else _nothing)
        if everybody is not None:
            agreed(others, lambda: everybody(temporary))
        own = agreed(others, names)[0][others.rank :: others.world]  # hashing is shared
        files = dict(sorted(entry for part in agreed(others, lambda: describe(own)) for entry in part.items()))
        agreed(others, finish if main else _nothing)
    except BaseException:
        if main:
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_meta(path: str | Path, replicas: Replicas | None = None) -> dict[str, Any]:
    """The description and position of a checkpoint, after checking every file's size and hash.

    With ``replicas`` each process checks some of the files, and all raise where one is damaged.
    """
    path, others = Path(path), replicas or alone()
    try:
        meta = json.loads((path / "meta.json").read_text())
    except FileNotFoundError:
        fail(CheckpointError, f"checkpoint {path}: no meta.json", fix="it is no checkpoint, or an incomplete copy")
    except json.JSONDecodeError as e:
        fail(CheckpointError, f"checkpoint {path}: meta.json is damaged", got=str(e), fix="use an earlier checkpoint")
    if meta.get("format") != FORMAT:
        fail(CheckpointError, f"checkpoint {path}: format", got=meta.get("format"), expected=FORMAT)
    agreed(others, lambda: _check_files(path, dict(list(meta["files"].items())[others.rank :: others.world])))
    return meta


def _check_files(path: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    for name, entry in files.items():
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

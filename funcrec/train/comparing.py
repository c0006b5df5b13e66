"""What was saved beside what is wanted: descriptions field by field, tensors by structure, shape and dtype."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import CheckpointError, fail

_FIX = "load it with the model, optimizers and store that it is of"


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


def placed(saved: Any, like: Any, name: str) -> Any:
    """``saved`` on the devices of ``like``, of whose structure and shapes it must be."""
    if isinstance(like, Tensor):
        describe = lambda x: f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__  # noqa: E731
        if describe(saved) != describe(like):
            fail(CheckpointError, f"checkpoint: {name}", got=describe(saved), expected=describe(like), fix=_FIX)
        return saved.to(like.device)
    if isinstance(like, (dict, TensorDict)):
        names = sorted(saved.keys()) if isinstance(saved, (dict, TensorDict)) else type(saved).__name__
        if names != sorted(like.keys()):
            fail(CheckpointError, f"checkpoint: {name}", got=names, expected=sorted(like.keys()), fix=_FIX)
        return {k: placed(saved[k], like[k], f"{name}.{k}") for k in like.keys()}
    if isinstance(like, (list, tuple)):
        length = len(saved) if isinstance(saved, (list, tuple)) else type(saved).__name__
        if length != len(like):
            fail(CheckpointError, f"checkpoint: parts of {name}", got=length, expected=len(like), fix=_FIX)
        return [placed(x, y, f"{name}.{i}") for i, (x, y) in enumerate(zip(saved, like, strict=True))]
    return saved

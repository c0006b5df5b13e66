"""Files of weights: what TorchEasyRec writes, and the formats that people turn it into."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from funcrec.core.errors import CheckpointError, fail

_WRAPPED = "model."  # the original's training wrapper holds the model under this name


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file or checkpoint directory, for :meth:`System.import_weights`.

    Args:
        path: ``*.safetensors``; a file of ``torch.save``; a directory of ``torch.distributed.checkpoint``, or
            ``model.ckpt-<step>``, which holds one called ``model``. Sharded tables are put together. Names that all
            begin with ``model.``, as those of the original's training wrapper do, are taken without it.

    Raises:
        CheckpointError: nothing there, or not weights.
    """
    path = Path(path)
    if not path.exists():
        fail(CheckpointError, f"weights {path}", got="no such file or directory", fix="check the path")
    if path.is_dir():
        found = _read_directory(path / "model" if (path / "model").is_dir() else path)
    elif path.suffix == ".safetensors":
        from safetensors.torch import load_file

        found = load_file(str(path))
    else:
        found = _read_torch(path)
    odd = sorted(n for n, x in found.items() if not isinstance(x, Tensor)) if isinstance(found, dict) else ["no dict"]
    if odd:
        fail(CheckpointError, f"weights {path}", got=f"entries that are no tensors: {odd[:5]}", expected="a state dict")
    if found and all(name.startswith(_WRAPPED) for name in found):
        found = {name.removeprefix(_WRAPPED): x for name, x in found.items()}
    return found


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        fail(CheckpointError, f"weights {path}: not a file of torch.save", got=reason, fix="give *.safetensors as such")


def _read_directory(path: Path) -> dict[str, Tensor]:
    if not (path / ".metadata").is_file():
        seen = sorted(p.name for p in path.iterdir())[:8]
        expected = "a directory of torch.distributed.checkpoint, which has a file .metadata"
        fail(CheckpointError, f"weights {path}", got=seen, expected=expected)
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.pt"
        dcp_to_torch_save(path, whole)
        return torch.load(whole, map_location="cpu", weights_only=True)

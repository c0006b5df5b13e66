"""Files of weights, in every form that people have them."""

from __future__ import annotations

import warnings

import pytest
import torch
from safetensors.torch import save_file

from funcrec.core.errors import CheckpointError
from funcrec.interop.easyrec import parse, read_state_dict

from .pipelines import PIPELINES, random_variables


@pytest.fixture(scope="module")
def weights():
    system = parse(PIPELINES["encoder_din_bn"])
    return dict(system.export_weights(random_variables(system)))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) and a[n].dtype == b[n].dtype for n in a)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_every_form_is_read(weights, tmp_path, prefix):
    from torch.distributed import checkpoint

    named = {prefix + n: x.clone() for n, x in weights.items()}
    save_file(named, tmp_path / "w.safetensors")
    torch.save(named, tmp_path / "w.pt")
    folder = tmp_path / "model.ckpt-10"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process only
        checkpoint.save(named, checkpoint_id=folder / "model", no_dist=True)
    for path in (tmp_path / "w.safetensors", tmp_path / "w.pt", folder, folder / "model", str(folder)):
        assert same(read_state_dict(path), weights), path


def test_what_is_no_state_dict_is_named(weights, tmp_path):
    (tmp_path / "text.pt").write_text("nothing")
    torch.save({"a": torch.zeros(1), "step": 3}, tmp_path / "more.pt")
    torch.save(torch.zeros(1), tmp_path / "tensor.pt")
    (tmp_path / "empty").mkdir()
    for name, seen in {
        "nowhere": "no such file or directory",
        "text.pt": "not a file of torch.save",
        "more.pt": r"no tensors: \['step'\]",
        "tensor.pt": "no dict",
        "empty": "a file .metadata",
    }.items():
        with pytest.raises(CheckpointError, match=seen):
            read_state_dict(tmp_path / name)

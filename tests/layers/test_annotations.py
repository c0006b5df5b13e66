"""The jaxtyping annotations are true: checked here at run time, free for users, for whom they are never imported."""

from __future__ import annotations

import importlib
from typing import Any

import jaxtyping
import pytest
import torch
from beartype import beartype
from tensordict import TensorDict

from funcrec.core.groups import Field, Group, Sequence
from funcrec.core.ragged import Ragged
from funcrec.core.random import key
from funcrec.core.tree import tree
from funcrec.layers.autodis import AutoDis
from funcrec.layers.batch_norm import init_batch_norm
from funcrec.layers.cross import init_cross
from funcrec.layers.cross_v2 import init_cross_v2
from funcrec.layers.dice import init_dice
from funcrec.layers.din_attention import DINEncoder
from funcrec.layers.linear import init_linear
from funcrec.layers.linear_number import LinearNumber
from funcrec.layers.mlp import MLPConfig, init_mlp
from funcrec.layers.multi_window_din import MultiWindowDINEncoder
from funcrec.layers.norm import init_layer_norm
from funcrec.layers.self_attention import SelfAttentionEncoder
from funcrec.layers.variational_dropout import init_variational_dropout
from tests.layers.cases import noise
from tests.layers.cases_interactions import CALLS as INTERACTIONS

X2, X3 = noise(1, 5, 3), noise(1, 5, 4, 3)
CONFIG = MLPConfig(hidden_units=(4, 2))
GROUP = Group.of("g", ["a", "b", "c", "d"], 3)
EMB = TensorDict({"g": X3}, batch_size=[5])
P64 = torch.float64
LENGTHS = torch.tensor([4, 0, 1, 2, 3])
ROWS = Ragged(noise(1, 10, 3), torch.tensor([0, 4, 4, 5, 7, 10]))
SEQUENCE = Sequence("h", (), (Field("item", 3),))
HISTORY = TensorDict({"h": X3, "length": {"h": LENGTHS}}, batch_size=[5])
DIN, SELF = DINEncoder(attn_mlp=CONFIG), SelfAttentionEncoder(dim=4, num_heads=2)
WINDOWS = MultiWindowDINEncoder(windows_len=(1, 2), attn_mlp=CONFIG)
AUTODIS = AutoDis(num_channels=3)

CALLS: dict[str, tuple[Any, ...]] = {
    "linear.linear": (init_linear(key(0), 3, 2, dtype=P64), X3),
    "norm.layer_norm": (init_layer_norm(3, dtype=P64), X3),
    "batch_norm.batch_norm": (lambda p, s: (p, X3, s))(*init_batch_norm(3, dtype=P64)),
    "dice.dice": (lambda p, s: (p, X3, s))(*init_dice(key(0), 3, P64)),
    "mlp.mlp": (lambda p, s: (p, X3, s, CONFIG))(*init_mlp(key(0), 3, CONFIG, P64)),
    "mlp.mlp_hidden": (lambda p, s: (p, X3, s, CONFIG))(*init_mlp(key(0), 3, CONFIG, P64)),
    "pooling.pool_padded": (X3, torch.ones(5, 4, dtype=torch.bool)),
    "pooling.pool_ragged": (Ragged(X2, torch.tensor([0, 2, 5])),),
    "fm.fm": (X3,),
    "dot.dot_interaction": (X3,),
    "cross.cross": (init_cross(key(0), 3, 2, dtype=P64), X2),
    "cross_v2.cross_v2": (init_cross_v2(key(0), 3, 2, 2, dtype=P64), X2),
    "inputs.group_vector": (GROUP, EMB, EMB),
    "inputs.inputs": (None, (GROUP,), EMB, EMB, tree()),
    "inputs.stacked": (GROUP, noise(1, 5, 12)),
    "inputs.sequence_keys": (SEQUENCE, HISTORY, HISTORY),
    "history.real_steps": (X3, LENGTHS, 2),
    "history.masked_softmax": (X2, X2 > 0),
    "history.pad_query": (X2, 5, 4),
    "din_attention.din_attention": (lambda p, s: (p, X2, X3, LENGTHS, s, DIN))(*DIN.init(key(0), 3, 3, P64)),
    "din_attention.din_attention_weights": (lambda p, s: (p, X2, X3, LENGTHS, s, DIN))(*DIN.init(key(0), 3, 3, P64)),
    "din_jagged.din_attention_jagged": (lambda p, s: (p, X2, ROWS, s, DIN))(*DIN.init(key(0), 3, 3, P64)),
    "din_jagged.din_attention_weights_jagged": (lambda p, s: (p, X2, ROWS, s, DIN))(*DIN.init(key(0), 3, 3, P64)),
    "simple_attention.simple_attention": (X2, X3, LENGTHS),
    "self_attention.self_attention": (SELF.init(key(0), 0, 3, P64)[0], X3, LENGTHS, SELF),
    "multi_window_din.multi_window_din": (lambda p, s: (p, X2, X3, LENGTHS, s, WINDOWS))(
        *WINDOWS.init(key(0), 3, 3, P64)
    ),
    "autodis.autodis": (AUTODIS.init(key(0), 1, 2, P64), noise(1, 5, 1), AUTODIS),
    "linear_number.linear_number": (LinearNumber().init(key(0), 3, 2, P64), X2),
    "variational_dropout.variational_dropout": (init_variational_dropout(key(0), 2, dtype=P64), X2, (1, 2)),
    "variational_dropout.variational_penalty": (init_variational_dropout(key(0), 2, dtype=P64), 5, 0.1),
}


def checked(path: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The layer with its annotations enforced; their names exist for type checkers only, so they are lent here."""
    module_name, function = path.split(".")
    module = importlib.import_module(f"funcrec.layers.{module_name}")
    for name in ("Float", "Bool", "Int"):
        assert not hasattr(module, name)
        monkeypatch.setattr(module, name, getattr(jaxtyping, name), raising=False)
    return jaxtyping.jaxtyped(getattr(module, function), typechecker=beartype)


@pytest.mark.parametrize("path", [*CALLS, *INTERACTIONS])
def test_annotations_hold(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checked(path, monkeypatch)(*(CALLS | INTERACTIONS)[path])


@pytest.mark.parametrize("path", ["fm.fm", "dot.dot_interaction"])
def test_the_check_would_see_a_wrong_rank(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(path, monkeypatch)(X2)

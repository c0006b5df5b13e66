"""Encoders of histories, embeddings of numbers, variational dropout and whole groups of them, for the contract."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.groups import Encoded, Encoder, Field, Group, Sequence
from funcrec.core.ragged import Ragged
from funcrec.core.random import fold_in, key
from funcrec.layers.autodis import AutoDis, autodis
from funcrec.layers.batch_norm import batch_norm, init_batch_norm
from funcrec.layers.din_attention import DINEncoder
from funcrec.layers.din_jagged import din_attention_jagged
from funcrec.layers.inputs import init_inputs, inputs
from funcrec.layers.linear_number import LinearNumber, linear_number
from funcrec.layers.mlp import MLPConfig
from funcrec.layers.multi_window_din import MultiWindowDINEncoder
from funcrec.layers.self_attention import SelfAttentionEncoder
from funcrec.layers.sequence_pooling import PoolingEncoder
from funcrec.layers.simple_attention import SimpleAttention
from funcrec.layers.variational_dropout import init_variational_dropout, variational_dropout, variational_penalty
from tests.layers.cases import F64, Case, jitter, noise, positive

LENGTHS = torch.tensor([3, 0, 1, 4])
SMOOTH = MLPConfig(hidden_units=(3, 2), activation="nn.Tanh")  # derivatives of every order, everywhere
DICE = MLPConfig(hidden_units=(3, 2), activation="Dice", use_bn=True)
DROPPED = MLPConfig(hidden_units=(3,), activation="nn.Tanh", dropout=0.4)


def _encoder(name: str, encoder: Encoder, train: bool = False, query_dim: int = 2, steps: int = 4) -> Case:
    """``x`` ``[b, 1 + t, d]``: the query, then the steps."""
    params, state = encoder.init(key(0), query_dim, 3, F64)
    state = positive(jitter(state))

    def f(p: TensorDict, x: Tensor) -> Tensor:
        query, keys = x[:, 0, :query_dim], x[:, 1:]
        return encoder.apply(p, query, keys, LENGTHS, state, key=key(1), train=train)[0]

    return Case(name, f, jitter(params), noise(1, 4, 1 + steps, 3), False)


def _jagged(name: str, config: DINEncoder, train: bool = False) -> Case:
    """``x`` ``[b + nnz, d]``: the queries, then the steps."""
    params, state = config.init(key(0), 3, 3, F64)
    state = positive(jitter(state))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), LENGTHS.cumsum(0)])

    def f(p: TensorDict, x: Tensor) -> Tensor:
        return din_attention_jagged(p, x[:4], Ragged(x[4:], offsets), state, config, key=key(1), train=train)[0]

    return Case(name, f, jitter(params), noise(1, 4 + int(offsets[-1]), 3), False)


def _variational(name: str, f: Callable[[TensorDict, Tensor], Tensor], rowwise: bool) -> Case:
    return Case(name, f, init_variational_dropout(key(0), 3, dtype=F64), noise(1, 4, 5), rowwise)


def _masked_batch_norm() -> Case:
    params, state = init_batch_norm(3, dtype=F64)
    mask = torch.tensor([[True, True, False], [False, False, False], [True, False, False]])

    def f(p: TensorDict, x: Tensor) -> Tensor:
        return torch.where(mask[..., None], batch_norm(p, x, state, train=True, mask=mask)[0], 0.0)

    return Case("batch_norm_masked", f, jitter(params), noise(1, 3, 3, 3), False)


def _inputs(train: bool) -> Case:
    """A group with everything in it. ``x`` ``[b, 3 + 1 + t, 2]``: its fields, the query, the steps."""
    sequence = Sequence("h", (Field("item", 2),), (Field("h_item", 2), Field("ts", 1, dense=True)))
    shared = Field("age", 2, dense=True, number=AutoDis(num_channels=3, temperature=0.7))
    encoded = (Encoded(sequence, DINEncoder(attn_mlp=DICE)), Encoded(sequence, PoolingEncoder()))
    groups = (
        Group("g", (*(Field(n, 2) for n in "abc"), shared), encoded, variational=True),
        Group("k", (shared, Field("pair", 2, dense=True, number=LinearNumber(), width=2))),
    )
    params, state = init_inputs(key(0), groups, F64)
    features = {"dense": {"age": noise(2, 4, 1), "pair": noise(3, 4, 2)}, "sequence": {"ts": noise(4, 4, 4, 1)}}
    batch = TensorDict({**features, "length": {"h": LENGTHS}}, [4])

    def f(p: TensorDict, x: Tensor) -> Tensor:
        emb = TensorDict({"g": x[:, :3], "h": x[:, 4:], "h_query": x[:, 3:4]}, batch_size=[])
        vectors, _ = inputs(p, groups, emb, batch, state, key=key(1), train=train)
        return torch.cat([vectors["g"], vectors["k"]], dim=1)

    return Case(f"inputs_{'train' if train else 'eval'}", f, jitter(params), noise(1, 4, 8, 2), False)


_DIS = AutoDis(num_channels=3, temperature=0.7)
_WIDTHS = (2, 1, 2)

CASES = [
    _encoder("din", DINEncoder(attn_mlp=SMOOTH)),
    _encoder("din_no_steps", DINEncoder(attn_mlp=DICE), train=True, steps=0),
    _encoder("din_one_step", DINEncoder(attn_mlp=SMOOTH), steps=1),
    _encoder("din_dice_train", DINEncoder(attn_mlp=DICE), train=True, query_dim=3),
    _encoder("din_dice_padded_train", DINEncoder(attn_mlp=DICE, padding_in_statistics=True), train=True),
    _encoder("din_raw_dropout", DINEncoder(attn_mlp=DROPPED, softmax=False, max_seq_length=2), train=True),
    _jagged("din_jagged", DINEncoder(attn_mlp=SMOOTH, max_seq_length=3)),
    _jagged("din_jagged_dice_train", DINEncoder(attn_mlp=DICE), train=True),
    _jagged("din_jagged_raw", DINEncoder(attn_mlp=SMOOTH, softmax=False, max_seq_length=3)),
    _encoder("simple_attention", SimpleAttention(), query_dim=3),
    _encoder("pooling_mean", PoolingEncoder(max_seq_length=2)),
    _encoder("pooling_sum", PoolingEncoder(pooling="sum")),
    _encoder("self_attention", SelfAttentionEncoder(dim=4, num_heads=2)),
    _encoder("self_attention_no_steps", SelfAttentionEncoder(dim=4, num_heads=2), steps=0),
    _encoder(
        "self_attention_dropout",
        SelfAttentionEncoder(dim=4, num_heads=1, dropout=0.3, max_seq_length=2, divide_by_untruncated=True),
        train=True,
    ),
    _encoder("multi_window", MultiWindowDINEncoder(windows_len=(1, 2, 3), attn_mlp=SMOOTH)),
    _encoder("multi_window_dice_train", MultiWindowDINEncoder(windows_len=(2, 1), attn_mlp=DICE), train=True),
    Case(
        "autodis", lambda p, x: autodis(p, x, _DIS), jitter(_DIS.init(fold_in(key(0), "a"), 1, 2, F64)), noise(1, 4, 1)
    ),
    Case("linear_number", linear_number, LinearNumber().init(key(0), 2, 3, F64), noise(1, 4, 2)),
    _variational("variational_eval", lambda p, x: variational_dropout(p, x, _WIDTHS), True),
    _variational("variational_train", lambda p, x: variational_dropout(p, x, _WIDTHS, key=key(1), train=True), False),
    _variational("variational_penalty", lambda p, x: variational_penalty(p, 4, 0.5) + x.sum(), False),
    _masked_batch_norm(),
    _inputs(train=False),
    _inputs(train=True),
]

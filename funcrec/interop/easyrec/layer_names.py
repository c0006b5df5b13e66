"""State-dict names of layers: one small table a layer kind.

A :class:`Name` pairs a name there with a place here. Shapes differ in three places only, by axes of length 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from funcrec.core.groups import Encoder
from funcrec.layers.mlp import MLPConfig
from funcrec.layers.multi_window_din import MultiWindowDINEncoder
from funcrec.layers.self_attention import SelfAttentionEncoder

Path = tuple[str, ...]
_SPLIT = re.compile(r"^(.*\.dense_embs\.[^.]+\.(?:meta_emb|proj_m|proj_w))_.*\.weight$")


class Name(NamedTuple):
    """``theirs``: the name there. ``path``: of the leaf in a section of the variables.

    ``section``: ``"params"``, ``"state"``, ``"table"`` (path: the table's name) or ``"constant"`` (``value``: buffers
    that the config determines). ``shape``: from the shape here to the shape there; None: the same.
    """

    theirs: str
    section: str
    path: Path = ()
    shape: Callable[[tuple[int, ...]], tuple[int, ...]] | None = None
    value: Tensor | None = None

    @property
    def parameter(self) -> str:
        """The name among the original's parameters: its state dict splits the stacked number embeddings by feature."""
        return _SPLIT.sub(r"\1", self.theirs)

    @property
    def counts(self) -> bool:
        """Whether it is an int64 counter there, a float64 leaf here."""
        return self.section == "state" and self.path[:1] == ("batches",)


def leaves_of(at: Path, to: str, *leaves: str) -> Iterator[Name]:
    """Leaves that have the same name there."""
    for leaf in leaves:
        yield Name(f"{to}.{leaf}", "params", (*at, leaf))


def linear_names(at: Path, to: str) -> Iterator[Name]:
    """``torch.nn.Linear``, and everything else with a weight and a bias."""
    return leaves_of(at, to, "weight", "bias")


def statistics_names(at: Path, to: str) -> Iterator[Name]:
    """Buffers of ``torch.nn.BatchNorm1d``."""
    yield Name(f"{to}.running_mean", "state", (*at, "mean"))
    yield Name(f"{to}.running_var", "state", (*at, "var"))
    yield Name(f"{to}.num_batches_tracked", "state", ("batches", *at))


def mlp_names(at: Path, to: str, config: MLPConfig | None, *, steps: bool = False) -> Iterator[Name]:
    """``<mlp>.<i>.perceptron.<slot>``: the linear map is slot 0, then norm and activation, whatever there is.

    ``steps``: over ``[B, T, C]``, where batch normalization stands between two transpositions.
    """
    for i in range(len(config.hidden_units) if config else 0):
        assert config is not None
        here, there, slot = (*at, str(i)), f"{to}.mlp.{i}.perceptron", 1
        yield from linear_names((*here, "linear"), f"{there}.0")
        if config.use_bn:
            slot = 2 if steps else 1
            yield from linear_names((*here, "bn"), f"{there}.{slot}")
            yield from statistics_names((*here, "bn"), f"{there}.{slot}")
            slot += 2 if steps else 1
        elif config.use_ln:
            yield from linear_names((*here, "ln"), f"{there}.1")
            slot = 2
        yield from leaves_of((*here, "activation"), f"{there}.{slot}", "alpha", "weight")
        yield from statistics_names((*here, "activation"), f"{there}.{slot}.bn")


def encoder_names(at: Path, to: str, encoder: Encoder) -> Iterator[Name]:
    """Encoders of histories; those without parameters have no names."""
    if isinstance(encoder, SelfAttentionEncoder):
        for name in ("query", "key", "value"):
            yield from linear_names((*at, name), f"{to}._{name}")
        for leaf in ("weight", "bias"):
            yield Name(f"{to}._multihead_attn.in_proj_{leaf}", "params", (*at, "in_proj", leaf))
        yield from linear_names((*at, "out_proj"), f"{to}._multihead_attn.out_proj")
        return
    attn: MLPConfig | None = getattr(encoder, "attn_mlp", None)
    yield from mlp_names((*at, "mlp"), f"{to}.mlp", attn, steps=True)
    yield from linear_names((*at, "linear"), f"{to}.linear")
    if isinstance(encoder, MultiWindowDINEncoder):
        yield from leaves_of((*at, "prelu"), f"{to}.active", "weight")
        sizes = encoder.windows_len
        starts = [0, *accumulate(sizes)][:-1]
        yield Name(f"{to}.windows_len", "constant", value=torch.tensor(sizes))
        yield Name(f"{to}.cumsum_windows_len", "constant", value=torch.tensor(starts))

"""What every encoder of histories does first: cut, mask and clear its steps, check and pad its query."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError, fail

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def real_steps(
    keys: Float[Tensor, "b t d"], lengths: Int[Tensor, " b"], max_seq_length: int = 0
) -> tuple[Float[Tensor, "b s d"], Bool[Tensor, "b s"]]:
    """The first ``max_seq_length`` steps (0: all), padding set to zero, and which of them are real.

    Zeros, not whatever stands there: a NaN in the padding would survive a multiplication by a weight of 0.

    Shape: keys ``[b, t, d]``, lengths ``[b]``, returns ``[b, s, d]`` and ``[b, s]``, s = min(t, max_seq_length).

    Raises:
        ShapeError: keys or lengths of other shapes.
    """
    if keys.dim() != 3 or lengths.shape != keys.shape[:1]:
        seen = f"keys {tuple(keys.shape)}, lengths {tuple(lengths.shape)}"
        fail(ShapeError, "history", got=seen, expected="keys [B, T, D], lengths [B]")
    if max_seq_length:
        keys = keys[:, :max_seq_length]
    step = torch.arange(keys.shape[1], device=lengths.device)
    mask = step < rearrange(lengths, "b -> b 1")
    return torch.where(rearrange(mask, "b s -> b s 1"), keys, 0.0), mask


def masked_softmax(scores: Float[Tensor, "... s"], mask: Bool[Tensor, "... s"]) -> Float[Tensor, "... s"]:
    """``softmax`` over the last axis where ``mask`` is true, 0 elsewhere; all 0 where nothing is true.

    The masked scores are the most negative number of their dtype, not -∞: a row without a true entry stays finite, and
    so do its derivatives of every order, in half precision too.
    """
    low = torch.finfo(scores.dtype).min
    return torch.where(mask, torch.softmax(torch.where(mask, scores, low), dim=-1), 0.0)


def pad_query(query: Float[Tensor, "b q"], rows: int, dim: int) -> Float[Tensor, "b d"]:
    """The query of each row of histories with zeros on its right, up to the ``dim`` components of a step.

    Raises:
        ShapeError: another number of rows, or of components than 1 to ``dim``. (One row would broadcast to all, and
            padding a query that is too wide would cut it.)
    """
    if query.dim() != 2 or query.shape[0] != rows or not 1 <= query.shape[1] <= dim:
        fail(ShapeError, "attention: query", got=tuple(query.shape), expected=f"[{rows}, 1 to {dim}]")
    return query if query.shape[1] == dim else F.pad(query, (0, dim - query.shape[1]))


def check_query(encoder: str, query_dim: int, key_dim: int) -> None:
    """Raise ConfigError unless ``0 < query_dim <= key_dim``."""
    if query_dim < 1:
        fix = "give the sequence query fields, or take an encoder that needs none: pooling, self-attention"
        fail(ConfigError, f"{encoder}: query_dim", got=query_dim, expected="a query to attend with", fix=fix)
    if query_dim > key_dim:
        seen = f"{encoder}: a query of {query_dim} components, steps of {key_dim}"
        fail(ConfigError, seen, fix="query_dim > sequence_dim not supported yet. Add key fields, or drop query fields")


def check_max_seq_length(encoder: str, max_seq_length: int) -> None:
    """Raise ConfigError unless it is 0, for no limit, or positive."""
    if max_seq_length < 0:
        fail(
            ConfigError, f"{encoder}: max_seq_length", got=max_seq_length, expected="a positive integer, or 0: no limit"
        )

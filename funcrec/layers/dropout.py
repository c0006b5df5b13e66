"""Inverted dropout with an explicit key."""

from __future__ import annotations

import torch
from torch import Tensor

from funcrec.core.errors import ConfigError, KeyMissingError, fail
from funcrec.core.random import bernoulli


def check_rate(rate: float) -> None:
    """Raise ConfigError unless ``0 <= rate < 1``."""
    if not 0.0 <= rate < 1.0:
        fail(ConfigError, "dropout rate", got=rate, expected="0 <= rate < 1")


def dropout(x: Tensor, rate: float, *, key: Tensor | None = None, train: bool = False) -> Tensor:
    """``y = x ⊙ m / (1 − rate)``, each ``m`` independently 1 with probability ``1 − rate``, else 0.

    Returns ``x`` itself when not training or when ``rate`` is 0.

    Args:
        rate: probability of dropping an element, in [0, 1).
        key: random key; the same key drops the same elements.

    Raises:
        ConfigError: ``rate`` outside [0, 1).
        KeyMissingError: training with ``rate > 0`` and no key.

    Reference: Srivastava et al. 2014, Dropout, sec. 10.
    """
    check_rate(rate)
    if not train or rate == 0.0:
        return x
    if key is None:
        fail(
            KeyMissingError,
            "dropout: no random key",
            got=f"train=True and rate={rate}",
            fix="pass key=funcrec.core.random.key(seed), folded with the step, or train=False",
        )
    keep = bernoulli(key, 1.0 - rate, x.shape)
    return torch.where(keep, x / (1.0 - rate), 0.0)

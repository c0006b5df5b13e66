"""Which form of a layer runs: its einops form or its Triton kernels."""

from __future__ import annotations

from typing import Literal, get_args

from funcrec.core.errors import ConfigError, fail

Impl = Literal["auto", "reference", "triton"]
"""``"reference"``: the einops form. ``"triton"``: the kernels; an error where they cannot run. ``"auto"``: the kernels
where they can run and were measured to be faster, else the einops form. :func:`funcrec.kernels.explain` tells which."""


def check_impl(where: str, impl: Impl) -> None:
    """Raise ConfigError unless it is one of the three."""
    if impl not in get_args(Impl):
        fail(ConfigError, f"{where}: impl", got=repr(impl), expected="'auto', 'reference' or 'triton'")

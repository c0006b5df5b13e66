"""The columns that are not features: the label, the weight and the time of a row."""

from __future__ import annotations

from dataclasses import dataclass

from funcrec.core.errors import ConfigError, fail


@dataclass(frozen=True, kw_only=True)
class Label:
    """``features["label"]``, float32: a number in {0, 1} unless told otherwise. A missing label is a bad value.

    Args:
        positive: texts that mean 1. Then ``negative`` are the texts that mean 0, every other text if not given.
        threshold: 1 where the number is at least this, else 0.
        binary: False takes any finite number, for regression.
    """

    name: str
    positive: tuple[str, ...] | None = None
    negative: tuple[str, ...] | None = None
    threshold: float | None = None
    binary: bool = True

    def __post_init__(self) -> None:
        for side in ("positive", "negative"):
            texts = getattr(self, side)
            if texts is not None:
                object.__setattr__(self, side, (texts,) if isinstance(texts, str) else tuple(texts))
        if self.negative is not None and self.positive is None:
            fail(ConfigError, f"Label {self.name!r}: negative", got=self.negative, fix="give positive too")
        if set(self.positive or ()) & set(self.negative or ()):
            fail(ConfigError, f"Label {self.name!r}", got=f"{self.positive} and {self.negative}", expected="no overlap")
        if sum([self.positive is not None, self.threshold is not None, not self.binary]) > 1:
            fail(ConfigError, f"Label {self.name!r}", expected="at most one of positive, threshold and binary=False")


@dataclass(frozen=True, kw_only=True)
class Weight:
    """``features["weight"]``, float32: a finite number of at least 0; a missing weight is a bad value."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Time:
    """``features["time"]``, float64: when a row happened, for splits by time; a missing time is a bad value."""

    name: str

"""One batch of examples: ids for the store, and a TensorDict[B] for the model and the loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from tensordict import TensorDict

from funcrec.core.ragged import Ids


class Batch(NamedTuple):
    """``ids``: by feature name, ``[B]`` int64, :class:`~funcrec.core.ragged.Ragged` or ``Nested``.

    ``features``: TensorDict[B] with ``"dense"`` (a TensorDict of ``[B, width]`` floats by field name, absent without
    dense fields), ``"length"`` (a TensorDict of ``[B]`` int64 by the name of a history, absent without histories),
    ``"label"`` (``[B]``) and, where the schema names one, ``"weight"`` (``[B]``).
    """

    ids: Ids
    features: TensorDict

    def __len__(self) -> int:
        return self.features.batch_size[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        ids = {name: x.to(device, non_blocking=non_blocking) for name, x in self.ids.items()}
        return Batch(ids, self.features.to(device, non_blocking=non_blocking))

"""Which form of each layer of a model runs on a batch, and why, without running it."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from tensordict import TensorDict
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from funcrec.core.batch import Batch
from funcrec.core.model import Model
from funcrec.core.random import key
from funcrec.core.tree import map_leaves
from funcrec.kernels.registry import Decision, recording


class Explanation(tuple[Decision, ...]):
    """The decisions in the order of the layers; prints as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        if not self:
            return "no layer of this model has kernels"
        rows = [("layer", "runs", "dtype", "device", "shapes", "why")]
        for d in self:
            shapes = " ".join("x".join(map(str, s)) for s in d.shapes)
            rows.append((d.layer, d.impl, str(d.dtype).removeprefix("torch."), d.device, shapes, d.why))
        widths = [max(len(r[i]) for r in rows) for i in range(5)]
        return "\n".join(
            "  ".join([*(c.ljust(w) for c, w in zip(r, widths, strict=False)), r[5]]).rstrip() for r in rows
        )


def explain(
    model: Model, batch: Batch | TensorDict, *, device: str | None = None, autocast: torch.dtype | None = None
) -> Explanation:
    """What each layer that has kernels would run on a batch of this size: ``print(explain(model, batch))``.

    Nothing is computed and no memory taken: the model runs on fake tensors. So a GPU can be asked about without one.

    Args:
        batch: a batch, or its features.
        device: where the model would run; None: where the batch is.
        autocast: the dtype of an autocast region around the model, if there is one.

    Returns:
        One :class:`~funcrec.kernels.registry.Decision` a layer.
    """
    features = batch.features if isinstance(batch, Batch) else batch
    n = features.batch_size[0]
    where = device or str(features.device or features["label"].device)
    sequences = list(dict.fromkeys(s for g in model.groups for s in g.sequences))
    groups = [*model.groups, *(s.query_group for s in sequences if s.query_group)]
    shapes = {g.name: (n, *g.embedded_shape) for g in groups if g.embedded}
    for s in sequences:
        if width := sum(f.dim for f in s.embedded):
            shapes[s.name] = (n, int(features["length"][s.name].max()), width)
    around = torch.autocast("cpu", dtype=autocast) if autocast else nullcontext()
    with FakeTensorMode(allow_non_fake_inputs=True), recording(where) as decisions, around:
        params, state = (map_leaves(_unfilled, t) for t in model.init(key(0)))
        emb = TensorDict({name: torch.empty(s) for name, s in sorted(shapes.items())}, [n])
        model.apply(params, emb, map_leaves(_unfilled, features), state)
    return Explanation(decisions)


def _unfilled(x: Tensor) -> Tensor:
    # On a CPU: fake tensors of a device that torch was not built for are refused. The registry is told the device.
    return torch.empty(x.shape, dtype=torch.get_default_dtype() if x.is_floating_point() else x.dtype)

"""What one does with a whole model: distil it into a smaller one, and look at which loss moves which weights.

>>> from functools import partial
>>> import torch
>>> teacher, student = torch.tensor([[2.0], [-1.0]]), torch.tensor([[1.0], [-1.0]])
>>> round(float(hint(student, teacher)), 3)
0.5
>>> gradient = torch.func.grad(partial(soft_labels, temperature=2.0))(student, teacher)
>>> [round(g, 3) for g in gradient.flatten().tolist()]
[-0.109, 0.0]
"""

from funcrec.core.matching import matching_layers
from funcrec.transform.derive import frozen, with_features
from funcrec.transform.distill import (
    SIMILARITIES,
    cosine_similarity,
    euclid,
    hint,
    inner_product,
    soft_labels,
)
from funcrec.transform.pair import DistilledConfig, distilled
from funcrec.transform.parts import part_gradients, routing, total
from funcrec.transform.rocket import distillation, rocket_objective, rocket_parts

__all__ = [
    "SIMILARITIES",
    "DistilledConfig",
    "cosine_similarity",
    "distillation",
    "distilled",
    "euclid",
    "frozen",
    "hint",
    "inner_product",
    "matching_layers",
    "part_gradients",
    "rocket_objective",
    "rocket_parts",
    "routing",
    "soft_labels",
    "total",
    "with_features",
]

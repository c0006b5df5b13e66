"""What a student can learn from a teacher: its logits, its probabilities, its hidden layers. One loss each.

``student`` and ``teacher`` have one shape, ``[B, C]`` logits or ``[B, D]`` hidden layers. The teacher is a constant to
differentiation unless ``cotrain``, with which the loss pulls it towards the student as well. Weights ``[B]`` are
normalised to mean 1, as in ``funcrec.losses``; a batch whose weights are all zero costs 0. Every loss is 0 or has no
slope where the student has arrived at its teacher (the inner product excepted, which has no such place), and its
gradient is finite everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, softplus

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.losses.reduction import full_precision, weighted_mean

if TYPE_CHECKING:
    from jaxtyping import Float

Similarity = Callable[..., Tensor]
"""``similarity(student, teacher, weights) -> scalar``, to be minimised."""


def _sides(loss: str, student: Tensor, teacher: Tensor, cotrain: bool) -> tuple[Tensor, Tensor]:
    """Both sides in the precision of the loss, the teacher without its gradient."""
    # Checked because [B, 1] would broadcast against [B] to [B, B], or against [B, C], and train on nonsense.
    if student.dim() != 2 or student.shape != teacher.shape or len(student) == 0:
        seen = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        fail(ShapeError, f"{loss}: student and teacher", got=seen, expected="one shape [B, D], B > 0")
    return full_precision(student), full_precision(teacher if cotrain else teacher.detach())


def _root(squares: Tensor) -> Tensor:
    """``√x`` whose derivatives at 0 are 0 instead of infinite."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)


def _unit(x: Tensor) -> Tensor:
    """Rows of length 1; rows shorter than 1e-12 become 0 with gradient 0, where ``x / 1e-12`` would explode."""
    length = _root((x * x).sum(1, keepdim=True))
    alive = length > 1e-12
    return torch.where(alive, x / torch.where(alive, length, 1.0), 0.0)


def hint(
    student: Float[Tensor, "b c"],
    teacher: Float[Tensor, "b c"],
    weights: Float[Tensor, " b"] | None = None,
    *,
    cotrain: bool = False,
) -> Tensor:
    """Squared error of logits, ``mean_b w_b · mean_c (s_bc - t_bc)²``.

    Raises:
        ShapeError: for two shapes, or weights that are not ``[B]``.

    Reference: Zhou et al. 2018, "Rocket Launching", the hint loss (there a sum over c).
    """
    s, t = _sides("hint", student, teacher, cotrain)
    return weighted_mean(((s - t) ** 2).mean(1), weights)


def soft_labels(
    student: Float[Tensor, "b c"],
    teacher: Float[Tensor, "b c"],
    weights: Float[Tensor, " b"] | None = None,
    *,
    temperature: float,
    cotrain: bool = False,
) -> Tensor:
    """``T² · mean_b w_b KL(p(t_b / T) ‖ p(s_b / T))``: p is the softmax of C > 1 logits, the sigmoid of one.

    The cross-entropy with soft targets less the teacher's own entropy, which a fixed teacher makes a constant: so the
    same gradient, and 0 where student and teacher agree. T² keeps the size of the gradient when T changes. For T → ∞
    the loss tends to ``mean_b w_b (s_b - t_b)² / 8`` of one logit, and to ``mean_b w_b Var_c(s_b - t_b) / 2`` of C:
    an eighth of the hint, and half the hint of logits that are centred in each row.

    Raises:
        ConfigError: a temperature that is not positive and finite.
        ShapeError: for two shapes, or weights that are not ``[B]``.

    Reference: Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", eq. 1-4.
    """
    if not 0 < temperature < math.inf:
        fix = "for the limit of a high temperature, take hints"
        fail(ConfigError, "soft_labels: temperature", got=temperature, expected="a positive, finite number", fix=fix)
    s, t = (x / temperature for x in _sides("soft_labels", student, teacher, cotrain))
    if s.shape[1] == 1:
        a, b = s.squeeze(1), t.squeeze(1)
        # softplus(z) = z is exact above 40 in float64 too
        divergence = softplus(a, threshold=40.0) - softplus(b, threshold=40.0) - torch.sigmoid(b) * (a - b)
    else:
        log_s, log_t = log_softmax(s, dim=1), log_softmax(t, dim=1)
        divergence = (log_t.exp() * (log_t - log_s)).sum(1)
    return temperature**2 * weighted_mean(divergence, weights)


def cosine_similarity(
    student: Float[Tensor, "b d"],
    teacher: Float[Tensor, "b d"],
    weights: Float[Tensor, " b"] | None = None,
    *,
    scale: float = 0.1,
    cotrain: bool = False,
) -> Tensor:
    """``-scale · mean_b w_b cos(s_b, t_b)``, in [-scale, scale]; the cosine with a row of zeros is 0, without gradient.

    Raises:
        ShapeError: for two shapes, or weights that are not ``[B]``.

    Reference: TorchEasyRec's RocketLaunching, COSINE, with its factor of -0.1.
    """
    s, t = _sides("cosine_similarity", student, teacher, cotrain)
    return -scale * weighted_mean((_unit(s) * _unit(t)).sum(1), weights)


def inner_product(
    student: Float[Tensor, "b d"],
    teacher: Float[Tensor, "b d"],
    weights: Float[Tensor, " b"] | None = None,
    *,
    scale: float = 0.1,
    cotrain: bool = False,
) -> Tensor:
    """``-scale · mean_b w_b ⟨s_b, t_b⟩``. Unbounded below: a student with unbounded activations can only grow.

    TorchEasyRec's INNER_PRODUCT computes its Euclidean distance: that is ``euclid(whole_batch=True)``.

    Raises:
        ShapeError: for two shapes, or weights that are not ``[B]``.

    Reference: what TorchEasyRec's INNER_PRODUCT is named after, with the factor of -0.1 of its COSINE.
    """
    s, t = _sides("inner_product", student, teacher, cotrain)
    return -scale * weighted_mean((s * t).sum(1), weights)


def euclid(
    student: Float[Tensor, "b d"],
    teacher: Float[Tensor, "b d"],
    weights: Float[Tensor, " b"] | None = None,
    *,
    whole_batch: bool = False,
    cotrain: bool = False,
) -> Tensor:
    """Euclidean distance, ``mean_b w_b ‖s_b - t_b‖``, with gradient 0 (not NaN) where a row equals its teacher.

    ``whole_batch``: TorchEasyRec's form instead, ``√(Σ_b w_b ‖s_b - t_b‖²)``: one Frobenius norm, which grows with √B.

    Raises:
        ShapeError: for two shapes, or weights that are not ``[B]``.

    Reference: TorchEasyRec's RocketLaunching, EUCLID, for ``whole_batch``; by rows it is funcrec's own.
    """
    s, t = _sides("euclid", student, teacher, cotrain)
    squares = ((s - t) ** 2).sum(1)
    if not whole_batch:
        return weighted_mean(_root(squares), weights)
    return _root(weighted_mean(squares, weights) * len(squares))


SIMILARITIES: dict[str, Similarity] = {
    "batch_euclid": partial(euclid, whole_batch=True),
    "cosine": cosine_similarity,
    "euclid": euclid,
    "inner_product": inner_product,
}

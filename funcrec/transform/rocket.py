"""The losses of a light net beside its booster, by name: RocketLaunching's, and those of any pair of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.matching import matching_layers
from funcrec.core.model import Model, Objective
from funcrec.losses import bce
from funcrec.transform.distill import SIMILARITIES, Similarity, hint, soft_labels
from funcrec.transform.parts import PartsFn, total

Losses = Callable[..., Tensor] | Mapping[str, Callable[..., Tensor]]
"""One loss ``(logits, labels, weights) -> scalar``, named after its function, or several by name."""


def _named(loss: Losses) -> dict[str, Callable[..., Tensor]]:
    if isinstance(loss, Mapping):
        return dict(loss)
    function = loss
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__name__", "<unnamed>")
    if name.startswith("<"):
        fail(ConfigError, "loss without a name", got=name, expected="a function of funcrec.losses, or {name: loss}")
    return {name: loss}


def _similarity(similarity: str | Similarity | None) -> Similarity | None:
    if not isinstance(similarity, str):
        return similarity
    if similarity not in SIMILARITIES:
        expected = f"one of {sorted(SIMILARITIES)}, a function, or None"
        fail(ConfigError, "similarity", got=repr(similarity), expected=expected)
    return SIMILARITIES[similarity]


def _pairs_by_width(outputs: Mapping[str, Tensor]) -> dict[int, int]:
    """The pairs of :func:`matching_layers` among the ``light_<i>`` and ``booster_<j>`` that are there."""
    light, booster = (
        sorted(int(name[len(net) + 1 :]) for name in outputs if name.startswith(f"{net}_"))
        for net in ("light", "booster")
    )
    widths = [outputs[f"light_{i}"].shape[-1] for i in light], [outputs[f"booster_{j}"].shape[-1] for j in booster]
    return {light[i]: booster[j] for i, j in matching_layers(*widths).items()}


def rocket_parts(
    outputs: Mapping[str, Tensor],
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    loss: Losses = bce,
    similarity: str | Similarity | None = "cosine",
    pairs: Mapping[int, int] | None = None,
    hints: bool = True,
    temperature: float | None = None,
) -> dict[str, Tensor]:
    """Every loss of a pair of nets by name; they are summed to train.

    ================================ ========================================= ==============================
    part                             value                                     moves, in RocketLaunching
    ================================ ========================================= ==============================
    ``<loss>_booster``               the booster's loss of the labels          booster, trunk, embeddings
    ``<loss>_light``                 the light net's                           light
    ``similarity_<i>_<j>``           of hidden layers i and j, if any          light
    ``soft_labels``                  see ``temperature``                       light
    ``hint_l2_loss``                 squared error of the two logits           light
    ================================ ========================================= ==============================

    With ``light_learns_shared`` what moves the light net moves trunk and embeddings too, and still not the booster.

    Args:
        outputs: of a model's ``outputs``: ``"light"``, and while training ``"booster"``, ``"light_<i>"`` and
            ``"booster_<j>"``. Without a booster (in evaluation) only the ``<loss>_light`` are there.
        labels, weights: ``[B]``; weights are normalised to mean 1 by each loss.
        loss: of logits, labels and weights; several by name are applied to both nets each.
        similarity: of hidden layers, a name in ``SIMILARITIES`` or a function; None: hidden layers are not compared.
        pairs: light layer to booster layer; None: the first booster layer of equal width.
        hints: whether to add ``hint_l2_loss``.
        temperature: adds ``soft_labels`` of this temperature.

    Raises:
        ConfigError: an unknown similarity, a similarity with no layers to compare, or outputs without ``"light"``.
        ShapeError: labels, weights or compared layers that do not fit.

    Reference: Zhou et al. 2018, "Rocket Launching", section 3; similarities and unit factors as TorchEasyRec has them.
    """
    compare, losses = _similarity(similarity), _named(loss)
    if "light" not in outputs:
        fail(ConfigError, "rocket_parts: outputs", got=list(outputs), expected='"light", and in training "booster"')
    if "booster" not in outputs:
        return {f"{name}_light": f(outputs["light"], labels, weights) for name, f in losses.items()}
    light, booster = outputs["light"], outputs["booster"]
    parts = {}
    for name, f in losses.items():
        parts[f"{name}_booster"] = f(booster, labels, weights)
        parts[f"{name}_light"] = f(light, labels, weights)
    if compare is not None:
        chosen = _pairs_by_width(outputs) if pairs is None else dict(pairs)
        names = [(f"light_{i}", f"booster_{j}") for i, j in chosen.items()]
        if not names or any(name not in outputs for pair in names for name in pair):
            fail(
                ConfigError,
                f"similarity of hidden layers {chosen}",
                got=f"outputs {list(outputs)}",
                expected="light layers as wide as booster layers",
                fix="give the two nets a layer of equal width, or set similarity=None",
            )
        for (i, j), (a, b) in zip(chosen.items(), names, strict=True):
            parts[f"similarity_{i}_{j}"] = compare(outputs[a], outputs[b], weights)
    if temperature is not None:
        parts["soft_labels"] = soft_labels(light, booster, weights, temperature=temperature)
    if hints:
        parts["hint_l2_loss"] = hint(light, booster, weights)
    return parts


def distillation(
    model: Model,
    *,
    loss: Losses = bce,
    similarity: str | Similarity | None = "cosine",
    hints: bool = True,
    temperature: float | None = None,
) -> PartsFn:
    """:func:`rocket_parts` as a function of parameters and embeddings, for ``part_gradients``, ``routing``, ``total``.

    ``model``: RocketLaunching or one of :func:`~funcrec.transform.pair.distilled`.

    Raises:
        ConfigError: a model without ``outputs``, an unknown similarity or one with no layers to compare, a loss without
            a name.
    """
    if model.outputs is None:
        seen, fix = (
            f"{type(model.config).__name__} without outputs",
            "join it to a booster with distilled(light, booster)",
        )
        fail(ConfigError, "distillation: model", got=seen, expected="a light net and its booster", fix=fix)
    run, losses, compare = model.outputs, _named(loss), _similarity(similarity)
    pairs = getattr(model.config, "pairs", None)
    if compare is not None and pairs is not None and not pairs:
        fix = "give the two nets a layer of equal width, or distilled() features, or set similarity=None"
        fail(ConfigError, f"similarity of hidden layers of {type(model.config).__name__}", got="none", fix=fix)

    def parts(params, emb, features, state, key):
        out, state = run(params, emb, features, state, key=key, train=True)
        values = rocket_parts(
            out,
            features["label"],
            features.get("weight", None),
            loss=losses,
            similarity=compare,
            pairs=pairs,
            hints=hints,
            temperature=temperature,
        )
        return values, (out["light"], state)

    return parts


def rocket_objective(
    model: Model,
    loss: Losses = bce,
    *,
    similarity: str | Similarity | None = "cosine",
    hints: bool = True,
    temperature: float | None = None,
    factors: Mapping[str, float] | None = None,
) -> Objective:
    """What ``make_step(objective=…)`` minimises: the parts of :func:`distillation`, each by its factor (1), summed.

    The logits it returns are the light net's.

    Raises:
        ConfigError: as :func:`distillation`; when called, factors of no part.
    """
    parts = distillation(model, loss=loss, similarity=similarity, hints=hints, temperature=temperature)
    return total(parts, factors)

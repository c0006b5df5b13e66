"""What several models ask of their configs, each question asked in one place."""

from __future__ import annotations

from funcrec.core.errors import ConfigError, fail
from funcrec.core.groups import Group
from funcrec.layers.mlp import MLPConfig


def check_classes(model: str, n_classes: int) -> None:
    """Raise ConfigError unless the logits have a width."""
    if not isinstance(n_classes, int) or n_classes < 1:
        fix = "1 for one logit, of a binary label or a number; C for C classes"
        fail(ConfigError, f"{model}: n_classes", got=repr(n_classes), expected="a positive integer", fix=fix)


def distinct(model: str, *groups: Group | None) -> tuple[Group, ...]:
    """The groups in their order, each once, without the absent ones.

    Raises:
        ConfigError: two different groups of one name: each would read the vectors of the other.
    """
    once = tuple(dict.fromkeys(g for g in groups if g is not None))
    names = [g.name for g in once]
    if len(set(names)) != len(names):
        fail(ConfigError, f"{model}: different groups of one name", got=names, fix="rename one of them")
    return once


def check_wide(model: str, wide: Group) -> None:
    """Raise ConfigError unless the wide part, a sum over fields and components, reads looked-up ids only.

    A sum has no weight for a raw number. A learned number or an encoded history has weights, those of the deep part,
    and an output that would be added to the logit as it is.
    """
    numbers = [f.name for f in wide.dense]
    if numbers:
        what = f"{model}: dense feature {numbers} should not be configured in wide group"
        fail(ConfigError, what, fix="bucketise it, or leave it to the deep group")
    if wide.encoded:
        seen = [e.sequence.name for e in wide.encoded]
        fail(ConfigError, f"{model}: histories in the wide group", got=seen, fix="leave them to the deep group")


def one_dim(model: str, group: Group, complaint: str) -> tuple[int, int]:
    """``group.require_stacked``; ``complaint``, the sentence that TorchEasyRec's users search for, leads its error."""
    try:
        return group.require_stacked(model)
    except ConfigError as e:
        raise ConfigError(f"{complaint}. {e}") from None


def check_sparse_and_dense(model: str, sparse: Group, dense: Group | None, dense_mlp: MLPConfig | None) -> None:
    """Raise ConfigError unless the dense group's MLP yields one more field of the sparse group's dim."""
    for name, group in (("dense", dense), ("sparse", sparse)):
        if group is not None and group.encoded:
            fix = "leave the encoders to another model, or give their output a group of its own"
            fail(ConfigError, f"{model}: {name} group not have sequence features.", fix=fix)
    complaint = f"{model}: sparse group feature dims must be the same, but we find {sparse.dims}"
    _, dim = one_dim(model, sparse, complaint)
    if (dense is None) != (dense_mlp is None):
        seen = f"dense={dense and dense.name}, dense_mlp={dense_mlp}"
        fail(ConfigError, f"{model}: dense group and dense_mlp", got=seen, expected="both or neither")
    if dense_mlp and dense_mlp.output_dim != dim:
        what = f"{model}: dense mlp last hidden_unit must be the same sparse feature dim"
        fail(ConfigError, what, got=dense_mlp.output_dim, expected=dim)

"""What DLRM and WuKong ask of their two groups: fields of one dim, and raw numbers projected to that dim."""

from __future__ import annotations

from funcrec.core.errors import ConfigError, fail
from funcrec.core.groups import Group
from funcrec.layers.mlp import MLPConfig


def check_sparse_and_dense(model: str, sparse: Group, dense: Group | None, dense_mlp: MLPConfig | None) -> None:
    """Raise ConfigError unless the dense group's MLP yields one more field of the sparse group's dim."""
    for name, group in (("dense", dense), ("sparse", sparse)):
        if group is not None and group.encoded:
            fix = "leave the encoders to another model, or give their output a group of its own"
            fail(ConfigError, f"{model}: {name} group not have sequence features.", fix=fix)
    raw = [f.name for f in sparse.dense if f.number is None]
    if raw or len(set(sparse.dims.values())) != 1:
        what = f"{model}: sparse group feature dims must be the same, but we find {sparse.dims}"
        fail(ConfigError, what, fix="give the sparse group embedded fields of one dim only")
    if (dense is None) != (dense_mlp is None):
        seen = f"dense={dense and dense.name}, dense_mlp={dense_mlp}"
        fail(ConfigError, f"{model}: dense group and dense_mlp", got=seen, expected="both or neither")
    _, dim = sparse.require_stacked(model)
    if dense_mlp and dense_mlp.output_dim != dim:
        what = f"{model}: dense mlp last hidden_unit must be the same sparse feature dim"
        fail(ConfigError, what, got=dense_mlp.output_dim, expected=dim)

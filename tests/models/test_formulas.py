"""Each model against its formula written out once more, its parameter count in closed form, and its errors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funcrec import models
from funcrec.core import tree
from funcrec.core.errors import ConfigError, FuncrecError, ShapeError
from funcrec.core.groups import Field, Group
from funcrec.core.random import key
from funcrec.layers.mlp import MLPConfig, mlp_parameter_count
from tests.models import cases
from tests.models.cases import CASES, inputs, weights


def run(config, make, batch=3):
    model = make(config)
    params, state = weights(model)
    emb, features = inputs(model, batch)
    return params, emb, features, model.apply(params, emb, features, state)[0]


def dense_layers(params, x):
    """The MLP of the cases: Linear, then tanh, layer by layer."""
    for i in sorted(params.keys()):
        x = torch.tanh(x @ params[i]["linear"]["weight"].T + params[i]["linear"]["bias"])
    return x


def head(params, x):
    y = x @ params["head"]["weight"].T
    return y + params["head"]["bias"] if "bias" in params["head"].keys() else y


def slow_fm(e):
    n = e.shape[1]
    return sum((e[:, i] * e[:, j] for i in range(n) for j in range(i + 1, n)), torch.zeros_like(e[:, 0]))


def test_lr_and_fm():
    params, emb, f, y = run(CASES["fm"].config, models.fm)
    dense = torch.cat([f["dense"]["x"], f["dense"]["y"]], 1)
    linear = emb["wide"].sum((1, 2)) + dense @ params["dense"]["weight"][0] + params["bias"]
    torch.testing.assert_close(y[:, 0], linear + slow_fm(emb["fm"]).sum(1))


def test_deepfm_without_final():
    params, emb, _, y = run(CASES["deepfm"].config, models.deepfm)
    deep = head(params, dense_layers(params["deep"], emb["deep"].flatten(1)))[:, 0]
    torch.testing.assert_close(y[:, 0], emb["wide"].sum((1, 2)) + slow_fm(emb["deep"]).sum(1) + deep)


def test_deepfm_with_final_joins_wide_fm_deep_in_this_order():
    params, emb, f, y = run(CASES["deepfm_final"].config, models.deepfm)
    g = torch.cat([emb["deep"].flatten(1), f["dense"]["x"], f["dense"]["y"]], 1)
    joined = torch.cat([emb["wide"].sum((1, 2))[:, None], slow_fm(emb["fm"]), dense_layers(params["deep"], g)], 1)
    torch.testing.assert_close(y, head(params, dense_layers(params["final"], joined)))


def test_deepfm_of_several_classes_adds_the_scalars_to_each():
    params, emb, _, y = run(CASES["deepfm_classes"].config, models.deepfm)
    deep = head(params, dense_layers(params["deep"], emb["deep"].flatten(1)))
    torch.testing.assert_close(y, (emb["wide"].sum((1, 2)) + slow_fm(emb["deep"]).sum(1))[:, None] + deep)


def test_dlrm_puts_dense_first_and_joins_dots_dense_sparse():
    params, emb, f, y = run(CASES["dlrm"].config, models.dlrm)
    d = dense_layers(params["dense"], torch.cat([f["dense"]["x"], f["dense"]["y"]], 1))
    x = torch.cat([d[:, None], emb["sparse"]], 1)
    dots = torch.stack([(x[:, i] * x[:, j]).sum(1) for i in range(4) for j in range(i + 1, 4)], 1)
    joined = torch.cat([dots, d, emb["sparse"].flatten(1)], 1)
    torch.testing.assert_close(y, head(params, dense_layers(params["final"], joined)))


def test_dlrm_without_products_is_an_mlp_of_the_fields():
    config = models.DLRMConfig(sparse=cases.SPARSE, interaction="cat", final=cases.MLP)
    params, emb, _, y = run(config, models.dlrm)
    torch.testing.assert_close(y, head(params, dense_layers(params["final"], emb["sparse"].flatten(1))))


def test_dcn_v2_deep_reads_the_raw_group_even_with_a_backbone():
    params, emb, f, y = run(CASES["dcn_v2_backbone"].config, models.dcn_v2)
    g = torch.cat([emb["deep"].flatten(1), f["dense"]["x"], f["dense"]["y"]], 1)
    x0 = x = dense_layers(params["backbone"], g)
    for i in range(3):
        layer = params["cross"][str(i)]
        x = x0 * (x @ layer["u"]["weight"].T @ layer["v"]["weight"].T + layer["v"]["bias"]) + x
    joined = torch.cat([x, dense_layers(params["deep"], g)], 1)
    torch.testing.assert_close(y, head(params, dense_layers(params["final"], joined)))
    assert "bias" not in params["head"].keys(), "this head has no bias"


def test_group_vector_keeps_the_listed_order_of_dense_and_embedded_fields():
    params, emb, f, y = run(CASES["dcn_v2_stacked"].config, models.dcn_v2)
    x0 = x = torch.cat([f["dense"]["x"], emb["all"][:, :3], emb["all"][:, 3:], f["dense"]["y"]], 1)
    for i in range(3):
        layer = params["cross"][str(i)]
        x = x0 * (x @ layer["u"]["weight"].T @ layer["v"]["weight"].T + layer["v"]["bias"]) + x
    torch.testing.assert_close(y, head(params, dense_layers(params["final"], x)))


@given(order=st.permutations(range(3)))
def test_order_of_fields_permutes_weights_only(order):
    """FM terms and the wide part do not see the order of their fields."""
    model = models.fm(models.FMConfig(wide=Group.of("wide", cases.IDS, 1), fm=cases.FM))
    params, state = weights(model)
    emb, features = inputs(model, 4)
    permuted = emb.apply(lambda x: x[:, order])
    a, b = (model.apply(params, e, features, state)[0] for e in (emb, permuted))
    torch.testing.assert_close(a, b)


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 3), st.integers(1, 4))
def test_parameter_counts(n, dim, n_dense, layers):
    ids, dense = [f"i{i}" for i in range(n)], [f"x{i}" for i in range(n_dense)]
    top = MLPConfig(hidden_units=(7, 5))
    group = Group.of("g", ids, dim, dense)
    width = n * dim + n_dense
    mlp = mlp_parameter_count
    expected = {
        models.dcn_v2(models.DCNv2Config(group=group, cross_num=layers, low_rank=None, deep=top)): (
            layers * (width * width + width) + mlp(width, top) + (width + 5)
        ),
        models.dcn_v2(models.DCNv2Config(group=group, cross_num=layers, low_rank=2, final=top)): (
            layers * (2 * 2 * width + width) + mlp(width, top) + 5
        ),
        models.lr(models.LRConfig(wide=Group.of("wide", ids, 1, dense))): 1 + n_dense,
        models.deepfm(
            models.DeepFMConfig(
                wide=Group.of("wide", ids, 4), deep=group, fm=Group.of("fm", ids, dim), deep_mlp=top, final=top
            )
        ): mlp(width, top) + mlp(1 + dim + 5, top) + 5 + 1,
    }
    if n_dense:
        bottom = MLPConfig(hidden_units=(6, dim))
        config = models.DLRMConfig(
            sparse=Group.of("s", ids, dim), dense=Group.of("d", [], 1, dense), dense_mlp=bottom, final=top
        )
        joined = math.comb(n + 1, 2) + dim + n * dim
        expected[models.dlrm(config)] = mlp(n_dense, bottom) + mlp(joined, top) + 6
    for model, count in expected.items():
        assert tree.count(model.init(key(0))[0]) == count, model.config


GROUP4, GROUP8 = Group.of("dense", [], 1, ["x"]), MLPConfig(hidden_units=(8,))
ERRORS = {
    "embedding dimension of fm features must be same": lambda: models.DeepFMConfig(
        wide=cases.WIDE, deep=cases.BOTH, deep_mlp=cases.MLP
    ),
    "should not be configured in wide group": lambda: models.DeepFMConfig(
        wide=cases.BOTH, deep=cases.DEEP, deep_mlp=cases.MLP
    ),
    "sparse group feature dims must be the same, but we find": lambda: models.DLRMConfig(
        sparse=Group("sparse", (Field("a", 2), Field("b", 3))), final=cases.MLP
    ),
    "dense mlp last hidden_unit must be the same sparse feature dim: got 8, expected 4": lambda: models.DLRMConfig(
        sparse=cases.SPARSE, dense=GROUP4, dense_mlp=GROUP8, final=cases.MLP
    ),
    "dense group and dense_mlp": lambda: models.DLRMConfig(sparse=cases.SPARSE, dense=GROUP4, final=cases.MLP),
    "interaction": lambda: models.DLRMConfig(
        sparse=cases.SPARSE,
        interaction="sum",  # type: ignore[arg-type]
        final=cases.MLP,
    ),
    "nothing reaches the top MLP": lambda: models.dlrm(
        models.DLRMConfig(sparse=Group.of("s", ["a"], 4), arch_with_sparse=False, final=cases.MLP)
    ),
    "cross_num: got 0": lambda: models.DCNv2Config(group=cases.BOTH, cross_num=0),
    "low_rank: got 0": lambda: models.DCNv2Config(group=cases.BOTH, low_rank=0),
    "expected dim 1: one weight an id": lambda: models.LRConfig(wide=cases.WIDE),
    "expected embedded fields of one dim only": lambda: models.FMConfig(wide=Group.of("wide", ["a"], 1), fm=cases.BOTH),
    "expected at least one field": lambda: Group("g", ()),
    "repeated fields": lambda: Group.of("g", ["a", "a"], 2),
    "field 'a': dim: got 0": lambda: Field("a", 0),
}


@pytest.mark.parametrize("text", ERRORS)
def test_config_errors_say_what_is_wrong(text):
    with pytest.raises(ConfigError) as caught:
        ERRORS[text]()
    assert text in str(caught.value)


def test_inputs_of_another_shape_are_named():
    model = CASES["dlrm"].model()
    params, state = weights(model)
    emb, features = inputs(model, 3)
    with pytest.raises(ShapeError, match=r"group 'sparse'.*got \(3, 3, 2\).*\[B, 3, 4\]"):
        model.apply(params, emb.apply(lambda x: x[..., :2]), features, state)
    with pytest.raises(FuncrecError, match=r"dense field 'y'"):
        model.apply(params, emb, features.exclude(("dense", "y")), state)

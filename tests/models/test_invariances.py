"""What a model cannot see: the order of its fields, the axes of its dot products, the size of its batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch.func import grad

from funcrec import models
from funcrec.core import tree
from funcrec.core.groups import Group
from funcrec.core.random import key, normal
from tests.models.cases import BOTTOM, DEEP, FM, IDS, MLP, NUMBERS, SPARSE, WIDE, inputs, weights
from tests.models.cases_full import FULL, Parts, everything

orders = st.permutations(range(3))


def reordered(params, path: tuple[str, ...], columns: list[int]):
    """Params whose weight at ``path`` reads its inputs in another order: old column columns[i] at place i."""
    new = params.clone()
    new[path] = params[path][:, columns]
    return new


def group_columns(order, dim: int) -> list[int]:
    return [f * dim + d for f in order for d in range(dim)]


@given(wide=orders, deep=orders, fm=orders, shared=st.booleans(), final=st.booleans())
def test_the_order_of_the_fields_of_deepfm_permutes_weights_only(wide, deep, fm, shared, final):
    """Of wide and fm not even that; a deep group that is the fm group, too, permutes the MLP's columns alone."""
    config = models.DeepFMConfig(
        wide=WIDE, deep=DEEP, fm=None if shared else FM, deep_mlp=MLP, final=MLP if final else None
    )
    model = models.deepfm(config)
    params, state = weights(model)
    emb, features = inputs(model, 3)
    order = {"wide": wide, "deep": deep, "fm": fm}
    moved = emb.replace({g: emb[g][:, order[g]] for g in emb.keys()})
    permuted = reordered(params, ("deep", "0", "linear", "weight"), group_columns(deep, 4))
    expected = model.apply(params, emb, features, state)[0]
    torch.testing.assert_close(model.apply(permuted, moved, features, state)[0], expected)


@given(order=orders)
def test_the_order_of_the_fields_of_dlrm_permutes_weights_only(order):
    """Those of the top MLP: for the dots, one a pair, and for the embeddings that join them."""
    model = models.dlrm(models.DLRMConfig(sparse=SPARSE, dense=NUMBERS, dense_mlp=BOTTOM, final=MLP))
    params, state = weights(model)
    emb, features = inputs(model, 3)
    place = [0, *(1 + f for f in order)]  # the dense field comes first
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    dots = [pairs.index(tuple(sorted((place[i], place[j])))) for i, j in pairs]
    columns = [*dots, *range(6, 10), *(10 + c for c in group_columns(order, 4))]
    moved = emb.replace({"sparse": emb["sparse"][:, order]})
    permuted = reordered(params, ("final", "0", "linear", "weight"), columns)
    expected = model.apply(params, emb, features, state)[0]
    torch.testing.assert_close(model.apply(permuted, moved, features, state)[0], expected)


@given(seed=st.integers(0, 1000))
def test_dlrm_of_dots_alone_does_not_see_a_rotation_of_the_embeddings(seed):
    model = models.dlrm(models.DLRMConfig(sparse=SPARSE, arch_with_sparse=False, final=MLP))
    params, state = weights(model)
    emb, features = inputs(model, 3)
    rotation, _ = torch.linalg.qr(normal(key(seed), (4, 4), dtype=torch.float64))
    expected = model.apply(params, emb, features, state)[0]
    torch.testing.assert_close(model.apply(params, emb.apply(lambda x: x @ rotation), features, state)[0], expected)
    scaled = model.apply(params, emb.apply(lambda x: 2.0 * x), features, state)[0]
    assert not torch.allclose(scaled, expected)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_order_of_the_fields_is_the_groups_and_not_the_alphabets(order):
    names = [IDS[i] for i in order]
    deep = Group.of("deep", names, 4)
    model = models.deepfm(models.DeepFMConfig(wide=WIDE, deep=deep, deep_mlp=MLP))
    assert [f.name for g in model.groups if g.name == "deep" for f in g.fields] == names


@pytest.mark.parametrize("name", FULL)
@settings(max_examples=5)
@given(seed=st.integers(0, 1000), rows=st.integers(2, 4))
def test_one_row_one_field_width_one(name, seed, rows):
    """The least of everything: finite with its gradient, alike in training, and what it is among copies of itself."""
    model = FULL[name].make(FULL[name].config(Parts(units=(1,), ids=("a",), dim=1, dense=("x",))))
    params, state = weights(model)
    emb, features = inputs(model, 1, seed)
    logits, _ = model.apply(params, emb, features, state)
    assert logits.shape == (1, 1)
    assert torch.equal(model.apply(params, emb, features, state, train=True)[0], logits)
    copied, with_copies = (TensorDict.cat([t] * rows) for t in (emb, features))
    torch.testing.assert_close(model.apply(params, copied, with_copies, state)[0], logits.expand(rows, 1))

    def total(p, e):
        out, _ = everything(model, p, e, features, state, train=True)
        return torch.stack([y.sum() for y in out.values()]).sum()

    d_params, d_emb = grad(total, argnums=(0, 1))(params, emb)
    assert all(bool(g.isfinite().all()) for g in (*tree.leaves(d_params), *tree.leaves(d_emb)))
    assert any(bool((g != 0).any()) for g in tree.leaves(d_params))


@pytest.mark.parametrize("name", [n for n in FULL if n not in ("lr", "fm")])
def test_one_row_of_batch_normalization_evaluates(name):
    model = FULL[name].make(FULL[name].config(Parts(lambda part: {"use_bn": True}, (1,), ("a",), 1, ("x",))))
    params, state = weights(model)
    emb, features = inputs(model, 1)
    assert bool(model.apply(params, emb, features, state)[0].isfinite().all())

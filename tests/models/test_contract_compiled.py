"""The contract's slow part: each model compiles as one graph with its gradient, and exports with a dynamic batch."""

import pytest
import torch
from tensordict import TensorDict
from torch.func import grad

from funcrec import models
from funcrec.core import tree
from funcrec.core.random import key
from tests.models.cases import inputs
from tests.models.table import CASES
from tests.models.test_contract import scalar, setup

# A compilation takes 5 to 15 seconds: one case a factory, and dropout, whose key derivation is most of a graph, in two.
# An export takes one: also what the layers' own tests compile, encoders and attention.
COMPILED = {
    "lr_dense",
    "fm",
    "deepfm_dropout",
    "dlrm",
    "dcn_v2_parallel",
    "wide_and_deep_dropout",
    "dcn_without_final",
    "xdeepfm",
    "masknet",
    "wukong_bn",
    "multi_tower",
    "din_only",
    "rocket_bn",
}
EXPORTED = sorted({*COMPILED, "multi_tower_encoders", "din_softmax", "dcn_v2_backbone"})


@pytest.fixture(autouse=True)
def compiled_anew():
    """Functions of one line of code share a cache: a process that compiles many of them would reach its limit."""
    torch._dynamo.reset()


def test_every_factory_is_compiled_once():
    factories = [CASES[name].make.__name__ for name in COMPILED]
    assert sorted(factories) == sorted(n for n in models.__all__ if n.islower())


@pytest.mark.parametrize("name", sorted(COMPILED))
def test_compiles_as_one_graph_with_its_gradient(name):
    model, params, state, emb, features = setup(name)
    f = lambda p, e: grad(scalar(model, state, features, key(2), True), argnums=(0, 1))(p, e)  # noqa: E731
    expected = f(params, emb)
    seen = torch.compile(f, fullgraph=True, backend="aot_eager")(params, emb)
    for a, b in zip(expected, seen, strict=True):
        for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
            torch.testing.assert_close(x, y)


class _Evaluated(torch.nn.Module):
    def __init__(self, model, params, state):
        super().__init__()
        self.model, self.tree, self.state = model, params, state

    def forward(self, emb, features):
        batch = next(iter(emb.values())).shape[0]
        f = TensorDict({name: TensorDict(part, [batch]) for name, part in features.items()}, [batch])
        return self.model.apply(self.tree, TensorDict(emb, [batch]), f, self.state)[0]


def plain(emb, features):
    """Nested dicts of the tensors that a model reads, which torch.export takes as they are."""
    return emb.to_dict(), features.exclude("label").to_dict()


@pytest.mark.parametrize("name", EXPORTED)
def test_exports_with_a_dynamic_batch(name):
    model, params, state, emb, features = setup(name)
    module = _Evaluated(model, params, state)
    arguments = plain(emb, features)
    dynamic = torch.utils._pytree.tree_map(lambda _: {0: torch.export.Dim.DYNAMIC}, arguments)
    program = torch.export.export(module, arguments, dynamic_shapes=dynamic)
    others = plain(*inputs(model, 7, seed=3))
    torch.testing.assert_close(program.module()(*others), module(*others))

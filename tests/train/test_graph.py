"""CUDA graphs of the gradient: refusals and the filling of their inputs anywhere, equal training on a GPU."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funcrec import optim
from funcrec.core import tree
from funcrec.core.errors import ConfigError
from funcrec.core.random import key
from funcrec.layers.mlp import MLPConfig
from funcrec.train.graph import captured, refill
from tests.train.tiny import data, rows_of, step

on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
MLP = MLPConfig(hidden_units=(6, 4), use_bn=True, dropout=0.3)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from([torch.float32, torch.int64])), max_size=6))
def test_refill_copies_tensors_of_any_layout_and_dtype(kinds):
    def make(transposed, dtype, fill):
        x = torch.arange(fill, fill + 12).to(dtype)
        return x.reshape(4, 3).t() if transposed else x.reshape(3, 4)

    targets = [make(a, dtype, 0) for a, _, dtype in kinds]
    sources = [make(b, dtype, 100 * (i + 1)) for i, (_, b, dtype) in enumerate(kinds)]
    refill(targets, sources)
    assert all(torch.equal(t, s) for t, s in zip(targets, sources, strict=True))


def test_a_graph_on_the_cpu_is_refused():
    with pytest.raises(ConfigError, match=r"cuda_graph: a tensor's device: got \['cpu'\], expected cuda"):
        captured(torch.sin)(torch.ones(3))
    s = step(dtype=torch.float32, cuda_graph=True)
    with pytest.raises(ConfigError, match="cuda_graph"):
        s.train(s.init(key(0)), data(8, dtype=torch.float32))


def same_training(**options):
    """Steps with and without a graph: batches of two sizes, micro-batches, two states in turn, losses kept."""
    batches = [data(32, seed=i, dtype=torch.float32) for i in range(3)]
    small = rows_of(batches[0], 0, 7).to("cuda")
    batches = [b.to("cuda") for b in batches]
    batches += [small, batches[1:], batches[0]]
    out = []
    for graph in (False, True):
        s = step(("dense", "adam"), optim.adam(0.01), MLP, torch.float32, cuda_graph=graph, **options)
        states, losses = [s.init(key(i, "cuda")) for i in range(2)], []
        for batch in batches:
            for i in range(2):
                states[i], info = s.train(states[i], batch)
                losses.append(info["loss"])
        found = [x for ts in states for t in (ts.params, ts.state, ts.tables["weights"]) for x in tree.leaves(t)]
        out.append([*found, torch.stack([torch.as_tensor(x, device="cuda") for x in losses]).float()])
    for a, b in zip(*out, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("check_finite", [True, False])
@pytest.mark.parametrize("max_norm", [None, 0.05])
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")  # advice, while compiling
class TestOnAGpu:
    pytestmark = on_gpu

    def test_steps_with_a_graph_equal_steps_without(self, compile, max_norm, check_finite):
        same_training(compile=compile, max_norm=max_norm, check_finite=check_finite)

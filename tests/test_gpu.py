"""On a CUDA device: every model, store and optimizer gives what it gives on the CPU."""

import pytest
import torch
from torch.func import grad

from funcrec import optim
from funcrec.core import tree
from funcrec.core.random import key
from funcrec.layers.mlp import MLPConfig
from tests.models.cases import inputs, weights
from tests.models.table import CASES
from tests.train.tiny import STORES, data, step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def to(x, device):
    if isinstance(x, dict):
        return {k: to(v, device) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return type(x)(to(v, device) for v in x)
    # scalars of optimizer states stay on the CPU, where reading them costs no synchronization
    return x if isinstance(x, torch.Tensor) and x.dim() == 0 else x.to(device)


@pytest.mark.parametrize("name", CASES)
def test_models_and_their_gradients(name):
    model = CASES[name].model()
    params, state = weights(model)
    emb, features = inputs(model, 5)
    out = []
    for device in ("cpu", "cuda"):
        p, e, f, s = (t.to(device) for t in (params, emb, features, state))
        k = key(3, device)

        def objective(p, e, f=f, s=s, k=k):
            return torch.sin(model.apply(p, e, f, s, key=k, train=True)[0]).sum()

        gradients = grad(objective, argnums=(0, 1))(p, e)
        out.append([objective(p, e), *tree.leaves(gradients[0]), *tree.leaves(gradients[1])])
    for a, b in zip(*out, strict=True):
        torch.testing.assert_close(a, b.cpu())


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "adagrad", "lamb"])
@pytest.mark.parametrize("store", STORES)
def test_training_steps(store, optimizer):
    s = step(store, getattr(optim, optimizer)(0.01), MLPConfig(hidden_units=(6, 4), use_bn=True), max_norm=1.0)
    torch.set_default_dtype(torch.float64)
    try:
        start = s.init(key(0))
    finally:
        torch.set_default_dtype(torch.float32)
    out = []
    for device in ("cuda", "cpu"):  # the CPU last: a step donates its state
        ts = start._replace(
            params=start.params.to(device).clone(),
            state=start.state.to(device).clone(),
            tables=to(start.tables, device),
            optimizer=to(start.optimizer, device),
            key=start.key.to(device),
        )
        for i in range(4):
            ts, info = s.train(ts, data(16, seed=i).to(device))
        out.append((info["loss"], [*tree.leaves(ts.params), *tree.leaves(ts.tables["weights"])]))
    (loss, ours), (expected_loss, expected) = out
    assert loss == pytest.approx(expected_loss, rel=1e-9)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns(precision):
    s = step(("rowwise", "rowwise_adagrad"), dtype=torch.float32, precision=precision)
    ts = s.init(key(0, "cuda"))
    batch, losses = data(256, dtype=torch.float32).to("cuda"), []
    for _ in range(30):
        ts, info = s.train(ts, batch)
        losses.append(info["loss"])
    assert losses[-1] < losses[0] - 0.01

"""Models as nn.Modules: the same numbers as the pure function, in every loop that owns modules."""

import copy
import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torch.func import grad

from funcrec import models
from funcrec.core import tree
from funcrec.core.errors import ConfigError, FuncrecError
from funcrec.core.groups import Field, Group
from funcrec.core.model import Model
from funcrec.core.ragged import Ragged
from funcrec.core.random import key
from funcrec.embedding import spec_for
from funcrec.interop.module import ModelModule, Ranker, functional, to_module
from funcrec.layers.mlp import MLPConfig
from funcrec.losses import bce
from tests.models.cases import inputs, weights
from tests.models.table import CASES, REACHED
from tests.train.tiny import ROWS, data

STOCHASTIC = {n: c for n, c in CASES.items() if c.stochastic}
every_model = pytest.mark.parametrize("name", CASES)


def same(a: TensorDict, b: TensorDict) -> bool:
    pairs = zip(tree.leaves(a), tree.leaves(b), strict=True)
    return tree.paths(a) == tree.paths(b) and all(torch.equal(x, y) and x.dtype == y.dtype for x, y in pairs)


def case(name: str, batch: int = 4):
    model = CASES[name].model()
    return model, *weights(model), *inputs(model, batch)


def sparse_model(dropout: float = 0.0) -> Model:
    ids = list(ROWS)
    deep = MLPConfig(hidden_units=(6, 4), use_bn=True, dropout=dropout)
    return models.deepfm(
        models.DeepFMConfig(
            wide=Group.of("wide", ids, 1),
            deep=Group.of("deep", ids, 3, ["x"]),
            fm=Group.of("fm", ids, 3),
            deep_mlp=deep,
        )
    )


def ranker(dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> Ranker:
    model = sparse_model(dropout)
    return Ranker(model, spec_for(model.groups, ROWS, private=("wide",)), key=key(3)).to(dtype)


@every_model
def test_the_round_trip_is_exact_and_shares_no_memory(name):
    model, params, state, emb, features = case(name)
    module = to_module(model, params, state)
    p, s = functional(module)
    assert same(p, params)
    assert same(s, state)
    torch.testing.assert_close(
        module.eval()(emb, features), model.apply(params, emb, features, state)[0], rtol=0, atol=0
    )
    for x in (*module.parameters(), *tree.leaves(p)):
        with torch.no_grad():
            x.add_(1.0)
    assert not any(
        torch.equal(a, b) for a, b in zip(tree.leaves(functional(module)[0]), tree.leaves(params), strict=True)
    )
    assert same(p, tree.map_leaves(lambda x: x + 1.0, params))


@every_model
def test_names_are_the_paths_of_the_trees(name):
    model, params, state, _, _ = case(name)
    module = to_module(model, params, state)
    assert {n for n, _ in module.named_parameters()} == {f"params.{p}" for p in tree.paths(params)}
    assert {n for n, _ in module.named_buffers()} == {"key", "step"} | {f"state.{p}" for p in tree.paths(state)}
    assert set(module.state_dict()) == {n for n, _ in (*module.named_parameters(), *module.named_buffers())}


@every_model
def test_backward_is_the_gradient_of_the_pure_function(name):
    model, params, state, emb, features = case(name)
    module = to_module(model, params, state, key=key(5))
    first = module._next_key()

    def f(p, e):
        return torch.sin(model.apply(p, e, features, state, key=first, train=True)[0]).sum()

    d_params, d_emb = grad(f, argnums=(0, 1))(params, emb)
    leaf = emb.apply(lambda x: x.clone().requires_grad_())
    torch.sin(module.train()(leaf, features)).sum().backward()
    learn = REACHED.get(name)
    pairs = [*zip(tree.paths(d_params), tree.leaves(module.params.values()), tree.leaves(d_params), strict=True)]
    for path, p, g in (*pairs, *((n, leaf[n], d_emb[n]) for n in emb.keys())):
        # What the logits do not learn from has no gradient in one form of the model, and a zero in the other.
        if learn is not None and path.split(".")[0] not in learn:
            assert p.grad is None, path
            assert bool((g == 0).all()), path
        else:
            torch.testing.assert_close(p.grad, g)


@pytest.mark.parametrize("name", REACHED)
def test_all_outputs_together_reach_every_parameter(name):
    model, params, state, emb, features = case(name)
    module = to_module(model, params, state, key=key(5), outputs=True).train()
    torch.stack([torch.sin(y).sum() for y in module(emb, features).values()]).sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in module.parameters())


@every_model
def test_training_forwards_move_the_state_as_the_pure_function_does(name):
    model, params, state, emb, features = case(name)
    module = to_module(model, params, state, key=key(5)).train()
    for _ in range(3):
        k = module._next_key()
        expected, state = model.apply(params, emb, features, state, key=k, train=True)
        torch.testing.assert_close(module(emb, features), expected, rtol=0, atol=0)
    assert same(functional(module)[1], state)
    before = copy.deepcopy(module.state_dict())
    module.eval()(emb, features)
    assert all(torch.equal(x, before[n]) for n, x in module.state_dict().items()), "evaluation wrote a buffer"


@pytest.mark.parametrize("name", STOCHASTIC)
def test_dropout_advances_is_reproducible_and_checkpointed(name):
    model, params, state, emb, features = case(name)
    module, twin = (to_module(model, params, state, key=key(5)).train() for _ in range(2))
    seen = [module(emb, features).detach() for _ in range(3)]
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(seen))
    assert torch.equal(twin(emb, features), seen[0])
    resumed = ModelModule(model, key=key(77)).double().train()
    resumed.load_state_dict(twin.state_dict())
    assert torch.equal(resumed(emb, features), seen[1])
    assert not torch.equal(to_module(model, params, state, key=key(6)).train()(emb, features), seen[0])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
@every_model
def test_copies_continue_like_the_original(name, copied):
    model, params, state, emb, features = case(name)
    module = to_module(model, params, state).train()
    module(emb, features)
    twin = copied(module)
    assert torch.equal(twin(emb, features), module(emb, features))
    for x, y in zip(module.parameters(), twin.parameters(), strict=True):
        assert x.data_ptr() != y.data_ptr()
    assert torch.equal(copied(module.eval())(emb, features), module(emb, features))


def test_a_model_without_a_factory_is_copied_but_not_pickled():
    made = CASES["lr"].model()
    module = ModelModule(Model(lambda k: made.init(k), lambda *a, **k: made.apply(*a, **k), made.config, made.groups))
    copy.deepcopy(module)
    with pytest.raises(FuncrecError, match=r"pickle of a module of LRConfig.*save module.state_dict"):
        pickle.dumps(module)


def test_state_dicts_load_strictly():
    module = ModelModule(sparse_model())
    good = module.state_dict()
    lacking = {n: x for n, x in good.items() if n != "params.head.weight"}
    with pytest.raises(RuntimeError, match=r"Missing key.*params\.head\.weight"):
        module.load_state_dict(lacking)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*extra"):
        module.load_state_dict(good | {"extra": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="size mismatch"):
        module.load_state_dict(good | {"params.head.weight": torch.zeros(1, 2)})


def test_what_cannot_be_meant_is_refused():
    model = sparse_model()
    params, state = model.init(key(0))
    with pytest.raises(ConfigError, match="params and state"):
        ModelModule(model, params)
    with pytest.raises(ConfigError, match=r"params: leaves.*head\.weight"):
        ModelModule(model, params.exclude("head"), state)
    with pytest.raises(ConfigError, match=r"state: leaves.*deep"):
        ModelModule(model, params, tree.tree())
    with pytest.raises(ConfigError, match="outputs=True"):
        ModelModule(model, outputs=True)
    spec = spec_for(model.groups, ROWS, private=("wide",))
    with pytest.raises(ConfigError, match=r"tables: leaves.*dim3"):
        Ranker(model, spec, tables=TensorDict({"dim1": torch.zeros(23, 1)}, []))


def test_fields_may_be_called_like_attributes_of_modules():
    names = ["type", "train", "forward", "_parameters"]
    number = tree.tree({n: {"double": torch.ones(1) * i} for i, n in enumerate(names)})

    def apply(params, emb, batch, state, *, key=None, train=False):
        return params["type"]["double"], state

    module = ModelModule(Model(lambda k: (number, tree.tree()), apply, None, ()))
    assert module.state_dict()["params.forward.double"] == 2.0
    assert same(functional(module)[0], number)


def test_dtypes_and_devices_move_with_the_module():
    module = ModelModule(sparse_model(dropout=0.5)).double()
    assert {x.dtype for x in module.parameters()} == {torch.float64}
    assert module.key.dtype == module.step.dtype == torch.int64
    module.to("meta")
    assert {x.device.type for x in module.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.Adagrad])
def test_torch_optimizers_learn_in_place_tables_included(optimizer):
    module, batch = ranker(), data(64)
    opt = optimizer(module.parameters(), lr=0.05)
    untouched = module.table("a").detach().clone()
    losses = []
    for _ in range(60):
        opt.zero_grad()
        loss = bce(module(batch), batch.features["label"])
        loss.backward()
        opt.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.05
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in module.parameters())
    assert not torch.equal(module.table("a"), untouched)


def test_a_ranker_reads_its_tables_as_written_out():
    module, batch = ranker().eval(), data(9)
    bag = batch.ids["c"]
    assert isinstance(bag, Ragged)
    w = bag.weights
    assert w is not None
    of_row = [slice(s, e) for s, e in itertools.pairwise(bag.offsets.tolist())]

    def looked_up(suffix):
        a, b, c = (module.table(n + suffix) for n in ROWS)
        pooled = [(w[r, None].double() * c[bag.values[r]]).sum(0) for r in of_row]
        return torch.stack([a[batch.ids["a"]], b[batch.ids["b"]], torch.stack(pooled)], dim=1)

    deep = looked_up("")
    emb = TensorDict({"deep": deep, "fm": deep, "wide": looked_up("_wide")}, [9])
    torch.testing.assert_close(module(batch), module.dense(emb, batch.features))


def test_a_lightning_like_loop_resumes_exactly(tmp_path):
    """What a trainer does: train() around each epoch, eval() around validation, one checkpoint of everything."""

    def trained(module, opt, batches):
        for batch in batches:
            module.train()
            opt.zero_grad(set_to_none=True)
            loss = bce(module(batch), batch.features["label"])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            opt.step()
            module.eval()
            with torch.no_grad():
                module(batch)
        return [x.detach().clone() for x in module.state_dict().values()]

    batches = [data(16, seed) for seed in range(6)]
    whole = ranker(dropout=0.3)
    expected = trained(whole, torch.optim.Adam(whole.parameters(), 0.01), batches)
    first = ranker(dropout=0.3)
    opt = torch.optim.Adam(first.parameters(), 0.01)
    trained(first, opt, batches[:3])
    torch.save({"module": first.state_dict(), "optimizer": opt.state_dict()}, tmp_path / "last.ckpt")
    second = ranker(dropout=0.3)
    opt = torch.optim.Adam(second.parameters(), 0.01)
    saved = torch.load(tmp_path / "last.ckpt")
    second.load_state_dict(saved["module"])
    opt.load_state_dict(saved["optimizer"])
    assert all(torch.equal(a, b) for a, b in zip(trained(second, opt, batches[3:]), expected, strict=True))


def test_a_training_forward_compiles_as_one_graph_and_counts_its_steps():
    model, params, state, emb, features = case("deepfm_dropout")
    module, twin = (to_module(model, params, state).train() for _ in range(2))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        a, b = compiled(emb, features), twin(emb, features)
        torch.testing.assert_close(a, b)
    a.sum().backward()
    b.sum().backward()
    for x, y in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(x.grad, y.grad)
    assert int(module.step) == 3


# Said by the compiler of its own look at emb, which is an input of the graph and no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_ranker_compiles_around_its_lookups():
    module, twin, batch = ranker(dropout=0.5), ranker(dropout=0.5), data(9)
    a, b = torch.compile(module, backend="aot_eager")(batch), twin(batch)
    torch.testing.assert_close(a, b)
    a.sum().backward()
    b.sum().backward()
    for x, y in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(x.grad, y.grad)


def test_evaluation_exports_with_a_dynamic_batch():
    model, params, state, emb, features = case("deepfm_bn")
    module = to_module(model, params, state).eval()
    rows = torch.export.Dim("rows", min=2)
    args = (emb.to_dict(), features.exclude("label", "dense").to_dict())
    shapes = torch.utils._pytree.tree_map(lambda x: {0: rows}, args)
    exported = torch.export.export(module, args, dynamic_shapes=shapes)
    other, more = inputs(model, 7, seed=3)
    torch.testing.assert_close(exported.module()(other.to_dict(), {}), module(other, more))


DDP = """
import datetime, os, sys
import torch
import torch.distributed as dist
from tests.interop.test_module import bce, data, ranker

torch.set_num_threads(1)
rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
wait = datetime.timedelta(seconds=60)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=wait)
saved = {}
for dropout in (0.0, 0.5):
    module = ranker(dropout=dropout)
    ddp = torch.nn.parallel.DistributedDataParallel(module)
    opt = torch.optim.SGD(ddp.parameters(), 0.1)
    logits = []
    for seed in range(3):
        batch = data(12, seed)
        opt.zero_grad()
        logits.append(ddp(batch).detach())
        bce(ddp(batch), batch.features["label"]).backward()
        opt.step()
    saved[dropout] = {"state": module.state_dict(), "logits": logits}
torch.save(saved, f"{out}.{rank}")
dist.barrier()
dist.destroy_process_group()
"""


def test_ddp_on_two_ranks_agrees_and_drops_other_units_on_each(tmp_path):
    """Both ranks see the same rows: without dropout they do what one process does, with it their masks differ."""
    (tmp_path / "ddp.py").write_text(DDP)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(tmp_path / "ddp.py")]
    ranks = [
        subprocess.Popen([*command, str(r), str(tmp_path / "store"), str(tmp_path / "out")], env=environment)
        for r in range(2)
    ]
    try:
        assert [p.wait(timeout=240) for p in ranks] == [0, 0]
    finally:
        for p in ranks:
            p.kill()
    zero, one = (torch.load(tmp_path / f"out.{rank}") for rank in range(2))
    for dropout in (0.0, 0.5):
        for n in (n for n, _ in ranker().named_parameters()):
            assert torch.equal(zero[dropout]["state"][n], one[dropout]["state"][n]), n
    assert all(torch.equal(a, b) for a, b in zip(zero[0.0]["logits"], one[0.0]["logits"], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(zero[0.5]["logits"], one[0.5]["logits"], strict=True))
    module = ranker()
    opt = torch.optim.SGD(module.parameters(), 0.1)
    for seed in range(3):
        batch = data(12, seed)
        opt.zero_grad()
        module(batch)
        bce(module(batch), batch.features["label"]).backward()
        opt.step()
    for n, x in module.state_dict().items():
        torch.testing.assert_close(x, zero[0.0]["state"][n], msg=n)


def test_modules_are_parts_of_larger_modules():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.ranker, self.scale = ranker(), nn.Parameter(torch.ones(()))

        def forward(self, batch):
            return self.scale * self.ranker(batch)

    both, batch = Both(), data(5)
    both(batch).sum().backward()
    assert all(p.grad is not None for p in both.parameters())
    assert "ranker.tables.dim3" in both.state_dict()
    only = Group("wide", (Field("a", 1),))
    assert sum(1 for _ in ModelModule(models.lr(models.LRConfig(wide=only))).parameters()) == 1

"""The contract's part about running statistics: when they move, and that a checkpoint keeps them and all else."""

import torch
from torch.func import grad

from funcrec.core import tree
from funcrec.core.random import key
from funcrec.train import Run, TrainState, checkpoint
from tests.models.test_contract import every_model, setup

# Running statistics that ``apply`` leaves alone: those of RocketLaunching's booster move in ``outputs``.
IDLE = ("booster.",)


@every_model
def test_state_moves_in_training_only_and_no_gradient_flows_through_it(name):
    model, params, state, emb, features = setup(name)
    _, kept = model.apply(params, emb, features, state)
    _, moved = model.apply(params, emb, features, state, key=key(1), train=True)
    for path, old, a, b in zip(tree.paths(state), *map(tree.leaves, (state, kept, moved)), strict=True):
        assert torch.equal(a, old), path
        assert torch.equal(b, old) == path.startswith(IDLE), path
    if tree.paths(state):
        through = lambda p: model.apply(p, emb, features, state, key=key(1), train=True)[1]  # noqa: E731
        total = lambda p: sum(x.sum() for x in tree.leaves(through(p)))  # noqa: E731
        assert all(bool((g == 0).all()) for g in tree.leaves(grad(total)(params)))


@every_model
def test_a_checkpoint_gives_back_the_model(name, tmp_path):
    """Values, structure and empty subtrees: what was loaded trains as what was saved, bit for bit."""
    model, params, state, emb, features = setup(name)
    tables = {"weights": tree.tree({"t": torch.ones(2)})}
    held = TrainState(params, state, tables, {}, torch.tensor(7), key(1), {})
    run, _ = checkpoint.load(checkpoint.save(tmp_path, Run(held), {"config": repr(model.config)}))
    expected = model.apply(params, emb, features, state, key=key(2), train=True)
    seen = model.apply(run.train.params, emb, features, run.train.state, key=key(2), train=True)
    assert torch.equal(seen[0], expected[0])
    for a, b in ((run.train.params, params), (run.train.state, state), (seen[1], expected[1])):
        assert tree.paths(a) == tree.paths(b)
        assert all(torch.equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))

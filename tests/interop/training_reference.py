"""Training as the original does it, written with autograd, ``torch.optim`` and lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core import tree
from funcrec.interop.easyrec import parse

from .pipelines import DCN, group, pipeline, random_batch

CONSTANT = "constant_learning_rate {}"
SGD = f"sgd_optimizer {{ lr: 0.1 }} {CONSTANT}"


Part = tuple[Callable[[str], bool], Callable[..., torch.optim.Optimizer], dict, Callable[[int], float]]


def f32(x: float) -> float:
    """What a number of a config becomes."""
    return float(np.float32(x))


def system_of(dense: str = SGD, sparse: str = SGD, more: str = "", features: str | None = None):
    """DCN with two features that read one table, mean pooling, rows without ids, and raw numbers."""
    config = f"train_config {{ sparse_optimizer {{ {sparse} }} dense_optimizer {{ {dense} }} {more} }}"
    options = {} if features is None else {"features": features}
    return parse(pipeline(group("all", "a", "b", "c", "d", "price"), DCN, **options) + config)


def batches(system, n: int, rows: int = 5) -> list:
    return [random_batch(system, rows, seed=i) for i in range(n)]


def run(system, variables, data: Iterable, *, donate: bool = False, **options):
    training = system.init_training(variables, **options)
    for batch in data:
        training, _ = system.train_step(training, batch, donate=donate)
    return training


class Reference:
    """Leaves of autograd by name: the model's weights under the original's names, tables under theirs."""

    def __init__(self, system, variables: TensorDict) -> None:
        self.system, self.state = system, variables["state"]
        self.paths = tree.paths(variables["params"])
        names = system.parameter_names(variables["params"])
        leaves = dict(zip(names, tree.leaves(variables["params"]), strict=True))
        self.weights = {n: x.clone().requires_grad_() for n, x in leaves.items()}
        self.tables = {
            t.name: system.spec.table(variables["tables"], t.name).clone().requires_grad_() for t in system.spec.tables
        }

    @property
    def variables(self) -> TensorDict:
        params = tree.unflatten(self.paths, self.weights.values())
        stacks = {s.name: torch.cat([self.tables[t.name] for t in s.tables]) for s in self.system.spec.stacks}
        return TensorDict({"params": params, "state": self.state, "tables": TensorDict(stacks, [])}, [])

    def loss(self, batch) -> Tensor:
        return self.system.losses(self.variables, batch)[0]

    def touched(self, batch) -> dict[str, Tensor]:
        """The rows of each table that occur in the batch."""
        found: dict[str, list[Tensor]] = {name: [] for name in self.tables}
        for lookup in (lk for g in self.system.spec.groups for lk in g.lookups):
            ids = batch.ids[lookup.feature]
            found[lookup.table].append(ids if isinstance(ids, Tensor) else ids.values)
        return {name: torch.cat(ids).unique() for name, ids in found.items()}


def with_torch(
    system,
    variables: TensorDict,
    data: Iterable,
    parts: list[Part],
    *,
    window: int = 1,
    clip: Callable[[list[Tensor]], object] = lambda leaves: None,
    after_step: Callable[[list[Tensor]], None] = lambda leaves: None,
) -> Reference:
    """Dense training. ``parts``: (which names, optimizer, its options, learning rate of batch k); the first takes."""
    ref = Reference(system, variables)
    theirs = {n.path[0]: n.theirs for n in system.names if n.section == "table"}
    leaves = ref.weights | {theirs[t]: x for t, x in ref.tables.items()}
    optimizers, left = [], dict(leaves)
    for chosen, make, options, rate in parts:
        own = [left.pop(n) for n in list(left) if chosen(n)]
        optimizers.append((make(own, lr=1.0, **options), rate))
    assert not left
    for k, batch in enumerate(data):
        (ref.loss(batch) / window).backward()
        if (k + 1) % window == 0:
            clip(list(leaves.values()))
            for optimizer, rate in optimizers:
                optimizer.param_groups[0]["lr"] = rate(k)
                optimizer.step()
                optimizer.zero_grad()
            after_step(list(leaves.values()))
    return ref


def assert_same(ours: TensorDict, theirs: TensorDict, tol: float = 1e-10) -> None:
    """Equal weights, to a tolerance relative to 1."""
    for section in ("params", "tables"):
        assert tree.paths(ours[section]) == tree.paths(theirs[section])
        for path, a, b in zip(
            tree.paths(theirs[section]), tree.leaves(ours[section]), tree.leaves(theirs[section]), strict=True
        ):
            assert (a - b.detach()).abs().max() <= tol, path

"""DLRM over many ranks as ``sharded.py`` measures it: our side, and whether both sides say the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from dlrm_torchrec import endless, tables_of
from tensordict import TensorDict
from torch import Tensor

from funcrec import models, optim
from funcrec.core.batch import Batch
from funcrec.core.groups import Field, Group
from funcrec.core.model import Model
from funcrec.core.random import bernoulli, fold_in, key, normal, randint
from funcrec.embedding import EmbeddingSpec
from funcrec.layers.mlp import MLPConfig
from funcrec.losses import bce
from funcrec.optim import rowwise
from funcrec.shard import Plan, replicas, sharded_store
from funcrec.shard.blocks import local_blocks
from funcrec.shard.launch import RankInfo
from funcrec.train import Step, TrainState, ahead, make_step

LR = (0.02, 1e-3)  # of tables and of the rest


@dataclass(frozen=True)
class Sizes:
    """Of the model; ``small`` for a try on a CPU."""

    tables: int = 26
    rows: int = 1_000_000
    dim: int = 128
    numbers: int = 13
    bottom: tuple[int, ...] = (512, 256, 128)
    top: tuple[int, ...] = (1024, 1024, 512, 256)

    @property
    def names(self) -> list[str]:
        return [f"t{i:02d}" for i in range(self.tables)]


def make_model(s: Sizes) -> Model:
    relu = lambda *units: MLPConfig(hidden_units=units, activation="nn.ReLU")  # noqa: E731
    numbers = Group("dense", (Field("numbers", s.numbers, dense=True),))
    sparse = Group.of("sparse", s.names, s.dim)
    config = models.DLRMConfig(
        sparse=sparse, dense=numbers, dense_mlp=relu(*s.bottom), final=relu(*s.top), arch_with_sparse=False
    )
    return models.dlrm(config)


def make_pool(s: Sizes, rows: int, rank: int, pin: bool, n: int = 4) -> list[Batch]:
    """Batches of this rank, in pinned memory."""
    pool = []
    for i in range(n):
        k = fold_in(fold_in(key(7), f"rank {rank}"), i)
        label = bernoulli(fold_in(k, "label"), 0.3, (rows,)).float()
        dense = TensorDict({"numbers": normal(fold_in(k, "numbers"), (rows, s.numbers))}, [rows])
        ids: dict[str, Any] = {n: randint(fold_in(k, n), rows, 0, s.rows) for n in s.names}
        features = TensorDict({"dense": dense, "label": label}, [rows])
        if pin:
            ids, features = {n: x.pin_memory() for n, x in ids.items()}, features.pin_memory()
        pool.append(Batch(ids, features))
    return pool


class Ours:
    """A step of ours, and the batches that it reads."""

    def __init__(self, words: str, sizes: Sizes, model: Model, spec: EmbeddingSpec, where: Plan, ranks: RankInfo):
        self.words = words.split("+")
        rule = rowwise.rowwise_adagrad(LR[0], eps=1e-8)
        self.store = sharded_store(spec, rule, where, group=ranks.group)
        self.ranks = ranks
        self.step_of: Step = make_step(
            model,
            self.store,
            optim.adam(LR[1]),
            bce,
            precision="bf16" if "bf16" in self.words else "fp32",
            compile="compiled" in self.words,
            check_finite=False,
            cuda_graph="graph" in self.words,
            replicas=replicas(ranks.group),
        )
        self.state: TrainState = self.step_of.init(key(3, ranks.device))
        self.batches: Iterator[Any] = iter(())

    def feed(self, pool: list[Batch]) -> None:
        batches = endless(pool)
        self.batches = ahead(batches, self.step_of, self.state) if "ahead" in self.words else batches

    def step(self) -> Tensor:
        """One step; its loss, of this rank's share, on the device."""
        self.state, info = self.step_of.train(self.state, next(self.batches))
        return info["loss"]


def weights_of(ours: Ours, rule: Any, rows: int | None = None) -> dict[str, Tensor]:
    """This rank's tables, or copies of their first rows."""
    blocks = [b for m in ours.state.tables["modules"].values() for b in local_blocks(m, rule) if b.slot is None]
    return {b.table: b.values if rows is None else b.values[:rows].clone() for b in blocks}


def same_answers(ours: Ours, their: Any, ranks: RankInfo, rule: Any, exact: bool) -> None:
    """Compare the first losses, and by how much the tables have moved after them.

    Adagrad's first steps are as long for small gradients, so that noise moves a row visibly where it switches a unit.
    """
    seen, n = [], 20000
    start = weights_of(ours, rule, n)
    for _ in range(3):
        mine, other = torch.as_tensor(ours.step()).double(), their.step().double() / ranks.world
        both = torch.stack([mine.to(ranks.device), other.detach().to(ranks.device)])
        dist.all_reduce(both)
        seen.append(both.tolist())
    ranks.say("losses, ours and torchrec's: " + ", ".join(f"{a:.6f} {b:.6f}" for a, b in seen))
    bad: list[Any] = [x for x in seen if abs(x[0] - x[1]) > 2e-3 * abs(x[1])]
    expected, usual, worst = tables_of(their), 0.0, 0.0
    for name, x in weights_of(ours, rule, n).items():
        moved, differing = expected[name][:n] - start[name], x - expected[name][:n]
        touched = moved.norm(dim=1) > 0
        errors = (differing.norm(dim=1) / moved.norm(dim=1))[touched]
        usual = max(usual, float(errors.quantile(0.9)))
        worst = max(worst, float(differing.norm() / moved.norm()))
    ranks.say(f"tables moved alike: nine in ten rows up to {usual:.1e}, all together up to {worst:.1e}")
    if bad or not (usual < (1e-3 if exact else 0.5) and worst < 0.2):
        raise SystemExit(f"wrong answer: losses {seen}, movement of the tables {usual} {worst}")

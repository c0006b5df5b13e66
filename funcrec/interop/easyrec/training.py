"""Training steps as TorchEasyRec takes them: its order, its learning rates, its accumulation.

Batch k (from 0): one forward pass, and the gradient of ``Σ losses / N`` with ``N = gradient_accumulation_steps``.

* Tables of the *sparse* optimizer: the row rule steps on the rows that the batch touched, in every batch, with the
  learning rate of the first batch of its window of N. It is fused into the backward pass there, so no clipping,
  accumulation or average of dense gradients reaches it; its own ``gradient_clipping`` clamps pooled gradients.
* Weights of the *dense* optimizer, data-parallel tables among them: gradients are summed over the window, then clipped,
  then the optimizer steps with the learning rate of the window's last batch. Batches after the last whole window never
  reach these weights.

Which table belongs to which is a plan: see :mod:`funcrec.interop.easyrec.placement`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core import tree
from funcrec.core.batch import Batch
from funcrec.core.errors import ConfigError, fail
from funcrec.embedding.rows import Gradient
from funcrec.embedding.rowwise import rowwise_store, rowwise_tables
from funcrec.embedding.store import Store, Tables
from funcrec.interop.easyrec.gradients import (
    Trainable,
    gradients_of_rows,
    gradients_of_tables,
    variables_of,
)
from funcrec.interop.easyrec.optimizers import dense_optimizer, micro_steps, sparse_rule
from funcrec.interop.easyrec.placement import (
    Placement,
    Plan,
    place,
    ruled_gradient,
    table_gradients,
    table_weights,
    with_table_weights,
)
from funcrec.optim import Ema, Optimizer, ema
from funcrec.optim.base import State


class Recipe(NamedTuple):
    """The functions that a ``train_config`` and a plan stand for; no state."""

    store: Store
    unclamped: Store
    optimizer: Optimizer
    average: Ema | None
    micro_steps: int
    placement: Placement
    whole_tables: bool


class Training(NamedTuple):
    """What training carries from batch to batch, as one value.

    Attributes:
        params, state: dense weights and running statistics.
        tables: ``"weights"`` stacked by dim, and the row rule's ``"slots"`` and ``"step"``.
        optimizer: the dense optimizer's state.
        accumulated: sums of dense gradients since the last dense step; empty right after one.
        average: state of the moving averages, empty without ``ema``.
        step: batches seen, int64 scalar on the CPU.
        recipe: the functions that the config stands for.
    """

    params: TensorDict
    state: TensorDict
    tables: Tables
    optimizer: State
    accumulated: list[Tensor]
    average: State
    step: Tensor
    recipe: Recipe

    @property
    def variables(self) -> TensorDict:
        """The variables ``{"params", "state", "tables"}`` as they are now: a view, not a copy."""
        return variables_of(self.params, self.state, self.tables["weights"])

    @property
    def averaged(self) -> TensorDict:
        """The variables with the moving averages of what the dense optimizer trains: evaluated and exported there.

        Without ``ema`` in the config these are the variables.
        """
        if self.recipe.average is None:
            return self.variables
        averages, n = self.recipe.average.averages(self.average), len(tree.leaves(self.params))
        spec, stacks = self.recipe.store.spec, self.tables["weights"]
        tables = with_table_weights(spec, self.recipe.placement, stacks, averages[n:])
        return variables_of(_with_leaves(self.params, averages[:n]), self.state, tables)


def init_training(
    system: Trainable,
    variables: TensorDict,
    *,
    tables: Literal["rowwise", "dense"] = "rowwise",
    plan: Plan | Mapping[str, Plan] = "data_parallel",
    steps_per_epoch: int | None = None,
) -> Training:
    """The training state at these variables, which are copied.

    Args:
        tables: how gradients reach the tables: ``"rowwise"``, through the looked-up vectors; ``"dense"``, through the
            tables themselves. Two ways to the same numbers, the second in time and memory of whole tables. A clamp of
            pooled gradients (``gradient_clipping``) has no second way, so there both are the first.
        plan: which optimizer owns the tables. ``"data_parallel"``: ``dense_optimizer``, unless the config's
            constraints rule that out: what the original does with small tables in one process on a CPU, whatever its
            ``sparse_optimizer`` says. ``"sharded"``: ``sparse_optimizer``, as with large tables. A mapping says it by
            table name, as in ``System.spec``.
        steps_per_epoch: batches in an epoch, for schedules ``by_epoch``.

    Raises:
        ConfigError: what the config asks for cannot be done; see :mod:`funcrec.interop.easyrec.optimizers`.
    """
    if tables not in ("rowwise", "dense"):
        fail(ConfigError, "init_training: tables", got=repr(tables), expected="'rowwise' or 'dense'")
    config = system.train_config
    _check_precision(config)
    placement = place(system.spec, config, plan, system.frozen_tables, system.constraints)
    rule = sparse_rule(config, steps_per_epoch=steps_per_epoch)
    copies = tree.map_leaves(lambda x: x.detach().clone(), variables)
    held = rowwise_tables(system.spec, rule, copies["tables"])
    held["slots"] = {name: slots for name, slots in held["slots"].items() if placement.ruled[name].any()}
    theirs = {n.path[0]: n.theirs for n in system.names if n.section == "table"}
    names = [*system.parameter_names(copies["params"]), *(theirs[t] for t in placement.weights)]
    leaves = [*tree.leaves(copies["params"]), *table_weights(system.spec, placement, copies["tables"])]
    optimizer = dense_optimizer(config, names, steps_per_epoch=steps_per_epoch)
    average = ema(config.dense_optimizer.ema.decay) if config.dense_optimizer.HasField("ema") else None
    store, clamped = rowwise_store(system.spec, rule), rule.max_gradient is not None
    recipe = Recipe(
        store=store,
        unclamped=rowwise_store(system.spec, rule._replace(max_gradient=None)) if clamped else store,
        optimizer=optimizer,
        average=average,
        micro_steps=micro_steps(config),
        placement=placement,
        whole_tables=tables == "dense" and not clamped,
    )
    return Training(
        params=copies["params"],
        state=copies["state"],
        tables=held,
        optimizer=optimizer.init(leaves, names),
        accumulated=[],
        average=average.init(leaves) if average else {},
        step=torch.zeros((), dtype=torch.int64),
        recipe=recipe,
    )


def train_step(
    system: Trainable, training: Training, batch: Batch, *, key: Tensor | None = None, donate: bool = False
) -> tuple[Training, dict[str, Tensor]]:
    """One batch: the training state after it, and its losses by name, of the weights before it.

    Args:
        key: for dropout and the like; give each batch its own, such as ``fold_in(key, step)``.
        donate: write tables, slots and dense weights in place, and so end the life of ``training``. The default keeps
            it valid, at the price of a copy of the tables in every batch.
    """
    recipe, spec, stacks = training.recipe, training.recipe.store.spec, training.tables["weights"]
    gradients = gradients_of_tables if recipe.whole_tables else gradients_of_rows
    d_params, pull, (losses, _, state) = gradients(
        system, recipe.store, training.variables, batch, key, 1.0 / recipe.micro_steps
    )
    with torch.no_grad():
        clamped = pull(recipe.store)
        unclamped = clamped if recipe.unclamped is recipe.store else pull(recipe.unclamped)
        d_rows = ruled_gradient(recipe.placement, clamped)
        d_tables = table_gradients(spec, recipe.placement, unclamped, stacks)
        tables = recipe.store.apply(training.tables if donate else _copied(training.tables, d_rows), d_rows)
        training = training._replace(state=state, tables=tables, step=training.step + 1)
        return _dense_step(training, [*tree.leaves(d_params), *d_tables], donate), losses


def _dense_step(t: Training, grads: list[Tensor], donate: bool) -> Training:
    """The dense half of a batch, after its other half."""
    total = torch._foreach_add(t.accumulated, grads) if t.accumulated else grads
    if int(t.step) % t.recipe.micro_steps:
        return t._replace(accumulated=list(total))
    spec, placement, weights = t.recipe.store.spec, t.recipe.placement, t.tables["weights"]
    leaves = [*tree.leaves(t.params), *table_weights(spec, placement, weights)]
    leaves, optimizer = t.recipe.optimizer.step(total, t.optimizer, leaves, donate=donate)
    average = t.average
    if t.recipe.average is not None:
        first = int(t.step) == t.recipe.micro_steps  # the original's average starts from the weights after a step
        average = t.recipe.average.init(leaves) if first else t.recipe.average.update(average, leaves, donate=donate)
    n = len(tree.leaves(t.params))
    if not donate:  # donated leaves are views of the stacks: already written
        weights = with_table_weights(spec, placement, weights, leaves[n:])
    return t._replace(
        params=_with_leaves(t.params, leaves[:n]),
        tables={**t.tables, "weights": weights},
        optimizer=optimizer,
        accumulated=[],
        average=average,
    )


def _copied(tables: Tables, d_rows: Gradient) -> Tables:
    """The tables, with those that these rows belong to copied."""
    weights = {n: w.clone() if n in d_rows else w for n, w in tables["weights"].items()}
    slots = {n: {k: s.clone() for k, s in slot.items()} if n in d_rows else slot for n, slot in tables["slots"].items()}
    return {**tables, "weights": TensorDict(weights, batch_size=[]), "slots": slots}


def _with_leaves(t: TensorDict, leaves: list[Tensor]) -> TensorDict:
    """The tree with these leaves, empty subtrees kept."""
    values = iter(leaves)
    return tree.map_leaves(lambda _: next(values), t)


def _check_precision(config: Any) -> None:
    if config.mixed_precision:
        fix = "leave it unset, or train with funcrec.train.make_step(precision=...)"
        fail(ConfigError, "train_config.mixed_precision", got=repr(config.mixed_precision), expected="none", fix=fix)
    if config.HasField("grad_scaler"):
        fix = "leave it out: nothing is trained in half precision here"
        fail(ConfigError, "train_config.grad_scaler", got="a gradient scaler", expected="none", fix=fix)

"""One training step, assembled from a model, a store, an optimizer and a loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.func import grad_and_value

from funcrec.core import tree
from funcrec.core.batch import Batch
from funcrec.core.errors import ConfigError, NonFiniteError, fail
from funcrec.core.model import Model, Objective
from funcrec.core.random import fold_in
from funcrec.core.replicas import Replicas, alone
from funcrec.embedding import rows
from funcrec.embedding.rows import Gradient
from funcrec.embedding.store import Store
from funcrec.optim import Optimizer
from funcrec.train.ahead import Ready
from funcrec.train.clipping import clip
from funcrec.train.finite import fail_non_finite
from funcrec.train.graph import captured
from funcrec.train.precision import Precision, autocast, init_loss_scale, next_loss_scale
from funcrec.train.replicas import averaged, no_ids, own_key, packed, shares
from funcrec.train.state import TrainState

# torch 2.11's inductor pads large intermediate arrays on a GPU and then reads some of them as if it had not: einsums
# under vmap came out wrong, silently.
INDUCTOR: dict[str, Any] = {"comprehensive_padding": False}

Loss = Callable[..., Tensor]
"""``loss(logits, labels, weights) -> scalar``, a mean over the batch: any function of ``funcrec.losses``."""


Trained = Batch | Ready | None
"""One batch of a step; among several processes None where this one has no rows."""


class Step(NamedTuple):
    """``init(key) -> TrainState``; ``train(state, batch) -> (state, info)``; ``predict(state, batch) -> logits``.

    ``train`` also takes a list of micro-batches: one step whose gradient is that of their concatenation; among several
    processes each of them may be None. Batches may come from :func:`~funcrec.train.ahead`. ``info`` holds
    ``loss``, ``grad_norm`` (only with ``max_norm``) and ``skipped`` (fp16 overflow) as Python numbers; without
    ``check_finite`` the first two are float64 scalars on the device.
    """

    init: Callable[[Tensor], TrainState]
    train: Callable[[TrainState, Trained | Sequence[Trained]], tuple[TrainState, dict[str, Any]]]
    predict: Callable[[TrainState, Batch], Tensor]
    model: Model
    store: Store
    replicas: Replicas


def _of_logits(model: Model, loss: Loss) -> Objective:
    """The objective of a loss of the logits."""

    def objective(params, emb, features, state, key):
        logits, state = model.apply(params, emb, features, state, key=key, train=True)
        return loss(logits, features["label"], features.get("weight", None)), (logits, state)

    return objective


def make_step(
    model: Model,
    store: Store,
    optimizer: Optimizer,
    loss: Loss | None = None,
    *,
    objective: Objective | None = None,
    precision: Precision = "fp32",
    max_norm: float | None = None,
    compile: bool = False,
    compile_rows: int | None = None,
    check_finite: bool = True,
    cuda_graph: bool = False,
    replicas: Replicas | None = None,
) -> Step:
    """Make the step ``lookup -> gradient -> clip -> update`` over dense weights and tables alike.

    Everything lives on the device of the key given to ``init``; batches are moved there.

    Args:
        loss: of the model's logits; or
        objective: everything that is minimized, in place of a loss: ``funcrec.transform`` makes those of distillation.
        precision: autocast of model and loss; weights, tables and optimizers stay in float32.
        max_norm: clips the global norm of *all* gradients together, those of the touched rows (row-wise store) or of
            whole tables with their L2 term (dense store) included.
        compile: ``torch.compile`` the gradient of the model, once per batch size.
        compile_rows: compile only for batches of this many rows; others (the last of an epoch) run eagerly instead of
            costing another compilation.
        check_finite: read the loss (with ``max_norm`` the norm too) on the host and raise, before anything is written,
            where it is not finite. Each reading waits for the GPU. Without it the host runs ahead, the same numbers
            come out, and a NaN spreads to weights and tables and shows in ``info["loss"]``. What still waits is not of
            the step: a store whose update has shapes that depend on the ids, batches that are moved from memory that is
            not pinned, the sample weights of micro-batches.
        cuda_graph: capture the gradient of the model, compiled or not, in a CUDA graph: see
            :func:`funcrec.train.graph.captured`. One graph for the first shapes seen (with ``compile_rows`` for batches
            of that many rows); others run without. Lookup and updates stay outside of it, and so does the sum over
            ``replicas``, which then follows the gradient instead of overlapping with it.
        replicas: other processes that take the same steps on their own rows, one step of all rows together; with a
            store that is sharded over them. A process without rows trains on ``None``. Running statistics are averaged.
            ``info["loss"]`` is that of all rows (of this process's share, without ``check_finite``).

    Raises:
        ConfigError: an option, or a combination of them, that describes no step: fp16 without ``check_finite``, whose
            loss scale depends on the overflows that it sees; in ``train``, ``cuda_graph`` on another device.
        NonFiniteError: in ``train``, a loss or gradient that is not finite; the state is as it was.
    """
    if precision not in ("fp32", "bf16", "fp16"):
        fail(ConfigError, "precision", got=repr(precision), expected="'fp32', 'bf16' or 'fp16'")
    if max_norm is not None and not max_norm > 0:
        fail(ConfigError, "max_norm", got=max_norm, expected="a positive number, or None")
    if precision == "fp16" and not check_finite:
        fix = "use bf16, which needs no loss scale"
        fail(ConfigError, "check_finite", got="False under fp16, which looks for overflows", expected="True", fix=fix)

    minimized = objective if loss is None else _of_logits(model, loss)
    if minimized is None or (loss is not None and objective is not None):
        fail(ConfigError, "make_step: loss and objective", got="both" if loss else "neither", expected="one of them")

    def scaled(params, emb, features, state, key, number, loss_scale):
        # Here, where it is compiled or captured: on a GPU a hash is dozens of launches.
        key = fold_in(own_key(key, others), number)
        with autocast(precision, emb.device or features["label"].device):
            value, (logits, state) = minimized(params, emb, features, state, key)
        return value * loss_scale, (value, logits, state)

    others = replicas or alone()
    if others.world != store.processes:
        fix = "take a sharded store over the processes of the replicas, or neither"
        seen = f"{others.world} replicas, a store of {store.processes} processes"
        fail(ConfigError, "make_step: processes", got=seen, expected="as many of one as of the other", fix=fix)
    # A capture runs its function several times, and the other processes would have to wait for it as often: what is
    # captured leaves the sum over processes to be done behind it.
    sum_behind = cuda_graph and others.world > 1
    differentiated = grad_and_value(scaled if sum_behind else others.summed(scaled), argnums=(0, 1), has_aux=True)

    def eager(params, *args):
        """Gradients of params as leaves, packed for a sum that is still to be done; of emb; and what else there is."""
        (d_params, d_emb), (_, aux) = differentiated(params, *args)
        flats, leaves = packed(tree.leaves(d_params)) if sum_behind else ([], tree.leaves(d_params))
        return flats, leaves, d_emb, aux

    fast = torch.compile(eager, fullgraph=True, dynamic=False, options=INDUCTOR) if compile else eager
    fast = captured(fast) if cuda_graph else fast

    def init(key: Tensor) -> TrainState:
        params, state = model.init(fold_in(key, "model"))
        return TrainState(
            params=params,
            state=state,
            tables=store.init(fold_in(key, "tables")),
            optimizer=optimizer.init(tree.leaves(params), tree.paths(params)),
            step=torch.zeros((), dtype=torch.int64),
            key=fold_in(key, "train"),
            loss_scale=init_loss_scale(precision),
        )

    def on_device(ts: TrainState, batch: Batch) -> Batch:
        device = ts.key.device
        return batch if batch.features["label"].device == device else batch.to(device, non_blocking=True)

    def gradients(
        ts: TrainState,
        given: Trained,
        key: tuple[Tensor, Tensor],
        state: TensorDict,
        loss_scale: Tensor,
        keep: bool,
    ) -> tuple[Any, list[Tensor], Gradient, TensorDict, Callable[[], NoReturn] | None]:
        if isinstance(given, Ready):
            batch, ids = given.batch, given.ids
        elif given is None:
            batch, ids = None, no_ids(store.spec, ts.key.device)
        else:
            batch = on_device(ts, given)
            ids = batch.ids
        emb, touched = store.lookup(ts.tables, ids)
        if batch is None:  # none left in this process, which takes part with no rows
            d_leaves = tree.leaves(ts.params if sum_behind else others.absent(ts.params))
            if sum_behind:
                flats, d_leaves = packed([torch.zeros_like(x) for x in d_leaves])
                others.add(flats)
            return 0.0, d_leaves, store.gradient(ts.tables, touched, emb.clone()), state, None
        whole = compile_rows is None or len(batch) == compile_rows
        differentiate = fast if whole else eager
        flats, d_leaves, d_emb, (value, logits, state) = differentiate(
            ts.params, emb, batch.features, state, *key, loss_scale
        )
        others.add(flats)
        if cuda_graph and whole:  # the next replay overwrites its outputs: what outlives this step is copied
            value, state = value.clone(), state.clone() if tree.leaves(state) else state
            if keep:
                d_leaves, d_emb = [d.clone() for d in d_leaves], d_emb.clone()
        number = float(value) if check_finite else value.double()
        blame = None
        if check_finite and not math.isfinite(number):
            seen = {"batch": batch.features, "params": ts.params, "emb": emb, "state": ts.state}
            seen["model"] = TensorDict({"logits": logits}, [])
            blame = partial(fail_non_finite, int(ts.step), number, seen)
        return number, d_leaves, store.gradient(ts.tables, touched, d_emb), state, blame

    def train(ts: TrainState, batch: Trained | Sequence[Trained]) -> tuple[TrainState, dict[str, Any]]:
        batches = [batch] if batch is None or isinstance(batch, (Batch, Ready)) else list(batch)
        # Numbers that are kept on the CPU are filled in on the device: a copy would wait for it.
        filled = partial(torch.full, (), device=ts.key.device)
        step, scale = int(ts.step), float(ts.loss_scale.get("scale", 1.0))
        # Of one batch the key of the step, of each of several a child of it.
        keys = [(ts.key, filled(step, dtype=torch.int64))]
        if len(batches) > 1:
            keys = [(fold_in(ts.key, step), filled(i, dtype=torch.int64)) for i in range(len(batches))]
        total, blame, state = 0.0, None, ts.state
        d_params: Sequence[Tensor] = []
        d_tables = []
        for i, (micro, share) in enumerate(zip(batches, shares(batches, others), strict=True)):
            # What is summed over processes must have its share before: among micro-batches it can have it after.
            inside = share if others.world > 1 else 1.0
            loss_scale = filled(scale * inside, dtype=torch.get_default_dtype())
            keep = len(batches) > 1
            value, d_leaves, d_rows, state, own = gradients(ts, micro, keys[i], state, loss_scale, keep)
            blame = blame or own
            state = averaged(state, share, others)
            total += value * share
            factor = share / inside / scale if inside else 1.0
            if factor != 1.0:
                d_leaves, d_rows = list(torch._foreach_mul(d_leaves, factor)), rows.scale(d_rows, factor)
            d_params = torch._foreach_add(list(d_params), d_leaves) if d_params else d_leaves
            d_tables.append(d_rows)
        d_table = store.regularize(ts.tables, rows.add(d_tables))
        if others.world > 1 and check_finite:
            (total,) = others.total([float(total)])
            if not blame and not math.isfinite(total):
                fail(NonFiniteError, f"step {step}: the loss of another process is not finite", got=f"loss {total}")
        if blame:  # now, when no other process waits for this one
            blame()

        info: dict[str, Any] = {"loss": total, "skipped": False}
        if max_norm is not None or precision == "fp16":
            clipped = clip(ts, (d_params, d_table), max_norm, info, check_finite)
            if clipped is None:
                info["skipped"] = True
                return ts._replace(step=ts.step + 1, loss_scale=next_loss_scale(ts.loss_scale, False)), info
            d_params, d_table = clipped

        # donate: the leaves of ts.params are written in place
        _, opt = optimizer.step(d_params, ts.optimizer, tree.leaves(ts.params), donate=True)
        scale_state = next_loss_scale(ts.loss_scale, True) if precision == "fp16" else {}
        tables = store.apply(ts.tables, d_table)
        return ts._replace(state=state, tables=tables, optimizer=opt, step=ts.step + 1, loss_scale=scale_state), info

    @torch.no_grad()
    def predict(ts: TrainState, batch: Batch) -> Tensor:
        batch = on_device(ts, batch)
        emb, _ = store.lookup(ts.tables, batch.ids)
        with autocast(precision, batch.features["label"].device):
            return model.apply(ts.params, emb, batch.features, ts.state)[0]

    return Step(init, train, predict, model, store, others)

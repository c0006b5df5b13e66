"""The variables of a system: parameters and statistics of the model, and of groups that the model does not read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.random import fold_in
from funcrec.core.random import key as make_key
from funcrec.core.tree import tree
from funcrec.interop.easyrec.layer_names import Name
from funcrec.interop.easyrec.names import input_names, model_names, table_names
from funcrec.interop.easyrec.weights import leaf_paths, matched
from funcrec.layers.inputs import init_inputs

if TYPE_CHECKING:
    from funcrec.interop.easyrec.system import System


def init_dense(system: System, key: Tensor) -> tuple[TensorDict, TensorDict]:
    """Params: the model's, and under ``"unused"`` the encoders, numbers and rates of groups that it does not read.

    State likewise, and under ``"batches"`` one float64 counter for each pair of running statistics, at its path.
    """
    params, state = system.model.init(fold_in(key, "model"))
    entries: dict[str, Any] = dict(params.items())
    held: dict[str, Any] = dict(state.items())
    if system.unused:
        extra, kept = init_inputs(fold_in(key, "unused"), system.unused)
        rest: dict[str, Any] = dict(extra.items())
        known = params.get("inputs", tree()).get("numbers", tree()).keys()
        # A number's embedding is one there, whichever groups list it.
        numbers = {n: p for n, p in rest.pop("numbers", tree()).items() if n not in known}
        entries["unused"] = tree({**rest, **({"numbers": numbers} if numbers else {})})
        held["unused"] = kept
    count: dict = {}
    for path in leaf_paths(tree(held)):
        if path[-1] == "mean":
            node = count
            for k in path[:-2]:
                node = node.setdefault(k, {})
            node[path[-2]] = torch.zeros((), dtype=torch.float64, device=key.device)
    held["batches"] = tree(count)
    return tree(entries), tree(held)


def structure(system: System) -> TensorDict:
    """Variables whose values do not matter, tables without memory."""
    params, state = init_dense(system, make_key(0))
    tables = {s.name: torch.empty(s.rows, s.dim, dtype=s.dtype, device="meta") for s in system.spec.stacks}
    parts = {"params": params, "state": state, "tables": TensorDict(tables, batch_size=[])}
    return TensorDict(parts, batch_size=[])


def every_name(system: System, like: TensorDict) -> list[Name]:
    """The original's name of every leaf of ``like``, table and constant."""
    found = [
        *model_names(system.kind, system.model.config),
        *input_names("inputs", system.model.groups, getattr(system.model.config, "interests_name", "")),
        *input_names("unused", system.unused, ""),
        *table_names(system.spec),
    ]
    return matched(found, like)

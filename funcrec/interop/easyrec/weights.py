"""State dicts of the original to trees of this library and back, exactly."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import CheckpointError, fail
from funcrec.core.tree import tree
from funcrec.embedding.spec import EmbeddingSpec
from funcrec.interop.easyrec.layer_names import Name

_LOG = logging.getLogger(__name__)

# State of metrics, which the original keeps in its modules and so in its checkpoints.
_METRICS = ("_metric_modules.", "_train_metric_modules.", "_loss_modules.")


def leaf_paths(t: TensorDict) -> list[tuple[str, ...]]:
    """The keys of every leaf, as tuples."""
    return [(k,) if isinstance(k, str) else k for k in t.keys(include_nested=True, leaves_only=True)]


def matched(names: list[Name], structure: TensorDict) -> list[Name]:
    """The names whose leaf exists; every leaf of params and state has exactly one.

    ``structure``: variables, of which only the keys are read.
    """
    places = {(section, path) for section in ("params", "state") for path in leaf_paths(structure[section])}
    kept = [n for n in names if n.section in ("table", "constant") or (n.section, n.path) in places]
    unique = list({n.theirs: n for n in kept}.values())
    named = [(n.section, n.path) for n in unique if n.section in ("params", "state")]
    assert len(set(named)) == len(named), f"several names of one leaf: {sorted(named)}"
    assert set(named) == places, f"leaves without a name of the original: {sorted(places - set(named))}"
    return unique


class StateDict(dict[str, Tensor]):
    """A state dict that also answers to the names of parameters which the state dict splits.

    The original keeps the number embeddings of features of one kind and size in one parameter, ``<module>.meta_emb``
    ``[n, c, d]``, and writes ``<module>.meta_emb_<feature>.weight``, one a feature, into its state dict. Its gradients
    have the first names: ``d["<module>.meta_emb"]`` stacks the features in the order of their names.
    """

    def __init__(self, split: Mapping[str, list[str]]) -> None:
        super().__init__()
        self._split = split

    def __missing__(self, name: str) -> Tensor:
        if name not in self._split:
            raise KeyError(name)
        parts = [self[n] for n in self._split[name]]
        return parts[0] if "#vdim#" in name else torch.stack(parts)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self._split

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default


def _split(names: list[Name]) -> dict[str, list[str]]:
    """By parameter its parts, in the order of their features: ``x`` before ``x-b``, unlike their whole names."""
    out: dict[str, dict[str, str]] = {}
    for n in names:
        if n.theirs != n.parameter:
            feature = n.theirs.removeprefix(f"{n.parameter}_").removesuffix(".weight")
            out.setdefault(n.parameter, {})[feature] = n.theirs
    return {parameter: [parts[f] for f in sorted(parts)] for parameter, parts in out.items()}


def export_weights(names: list[Name], spec: EmbeddingSpec, variables: TensorDict) -> dict[str, Tensor]:
    """The leaves of a tree under the original's names, in its shapes and dtypes; counters are int64."""
    out = StateDict(_split(names))
    for name in names:
        if name.value is not None:
            out[name.theirs] = name.value.clone()
        elif name.section == "table":
            out[name.theirs] = spec.table(variables["tables"], name.path[0])
        else:
            x = variables[name.section][name.path]
            x = x if name.shape is None else x.reshape(name.shape(tuple(x.shape)))
            out[name.theirs] = x.round().to(torch.int64) if name.counts else x
    return out


def import_weights(
    names: list[Name], spec: EmbeddingSpec, like: TensorDict, state_dict: Mapping[str, Tensor]
) -> TensorDict:
    """Variables with the values and dtypes of a state dict, in the structure of ``like``.

    Constants, which the config determines, may be absent.

    Raises:
        CheckpointError: names that are missing or unknown, tensors of another shape, constants of another value: all of
            them in one message.
    """
    current = export_weights(names, spec, like)
    left_out = sorted(n for n in state_dict if n not in current and n.startswith(_METRICS))
    if left_out:
        _LOG.warning("import_weights: state of metrics is not read: %s", left_out)
    unknown = sorted(set(state_dict) - set(current) - set(left_out))
    missing = sorted(n.theirs for n in names if n.value is None and n.theirs not in state_dict)
    shapes, constants = [], []
    for name in names:
        x = state_dict.get(name.theirs, None)
        if x is None:
            continue
        if tuple(x.shape) != tuple(current[name.theirs].shape):
            shapes.append(f"{name.theirs} {tuple(x.shape)}, expected {tuple(current[name.theirs].shape)}")
        elif name.value is not None and not torch.equal(x.cpu().double(), name.value.double()):
            constants.append(f"{name.theirs} {x.tolist()}, expected {name.value.tolist()}")
    if missing or unknown or shapes or constants:
        parts = {"missing": missing, "unexpected": unknown, "of another shape": shapes, "of other values": constants}
        seen = "; ".join(f"{what}: {found}" for what, found in parts.items() if found)
        fix = "the config must be the one that the weights were trained with"
        fail(CheckpointError, f"import_weights: the state dict does not fit the config: {seen}", fix=fix)

    nested: dict[str, dict] = {"params": {}, "state": {}}
    tables: dict[str, Tensor] = {}
    for name in names:
        if name.value is not None:
            continue
        x = state_dict[name.theirs].detach().clone()
        if name.section == "table":
            tables[name.path[0]] = x
            continue
        node = nested[name.section]
        for key in name.path[:-1]:
            node = node.setdefault(key, {})
        x = x.reshape(like[name.section][name.path].shape)
        node[name.path[-1]] = x.to(torch.float64) if name.counts else x
    stacks = {s.name: torch.cat([tables[t.name] for t in s.tables]) for s in spec.stacks}
    sections = {name: _filled(like[name], nested[name]) for name in ("params", "state")}
    return TensorDict({**sections, "tables": TensorDict(stacks, batch_size=[])}, batch_size=[])


def _filled(like: TensorDict, values: dict) -> TensorDict:
    """``values`` with the empty subtrees of ``like``."""
    entries: dict[str, Any] = dict(like.items())
    return tree({k: values[k] if isinstance(v, Tensor) else _filled(v, values.get(k, {})) for k, v in entries.items()})

"""A model as an ``nn.Module``, and back: for training loops that own modules, such as DDP's and Lightning's.

    module = ModelModule(model, key=key(0))          # parameters and buffers of its own
    logits = module(emb, batch)                      # train() and eval() decide ``train``
    params, state = functional(module)               # the values, for the pure function

:class:`Ranker` holds the embedding tables too and maps a :class:`~funcrec.core.batch.Batch` to logits.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from funcrec.core.batch import Batch
from funcrec.core.errors import ConfigError, FuncrecError, fail
from funcrec.core.model import Model
from funcrec.core.random import fold_in
from funcrec.core.random import key as make_key
from funcrec.core.tree import leaves, paths
from funcrec.embedding.lookup import gather
from funcrec.embedding.spec import EmbeddingSpec
from funcrec.embedding.store import init_weights


class Tree(nn.Module):
    """A tree of tensors as nested modules: the name of a leaf in ``state_dict`` is its path, ``deep.0.weight``.

    Leaves are parameters, or buffers if not ``trainable``; they are copies of the tree's.
    """

    def __init__(self, values: TensorDict, *, trainable: bool) -> None:
        super().__init__()
        entries: dict[str, Any] = dict(values.items())
        self.names = tuple(entries)
        for name, value in entries.items():
            # Not register_parameter: it refuses a field called "type", or any other attribute of modules.
            if not isinstance(value, Tensor):
                self._modules[name] = Tree(value, trainable=trainable)
            elif trainable:
                self._parameters[name] = nn.Parameter(value.detach().clone())
            else:
                self._buffers[name] = value.detach().clone()

    def values(self) -> TensorDict:
        """The tree of the leaves themselves, not of copies."""
        entries: dict[str, Any] = {}
        for name in self.names:
            if name in self._modules:
                node = self._modules[name]
                assert isinstance(node, Tree)
                entries[name] = node.values()
            else:
                entries[name] = self._parameters[name] if name in self._parameters else self._buffers[name]
        return TensorDict(entries, batch_size=[])


class ModelModule(nn.Module):
    """``(emb, batch) -> logits [B, C]``: a model with its dense parameters, running statistics and random key.

    ``params.<path>`` are parameters; ``state.<path>``, ``key`` and ``step`` are buffers. Each training forward folds
    ``step`` into ``key`` (and the rank, in a process group: ranks share the buffers, not the dropout masks), counts it
    up and writes the new running statistics. So a run continues exactly from its ``state_dict``.

    Args:
        params, state: values to start from, copied; or
        key: where to draw them, and the dropout masks, from. Seed 0 where neither is given.
        outputs: return every output of ``model.outputs`` by name instead of the logits.

    After ``backward`` the ``grad`` of parameters that the logits do not learn from, such as the booster's of
    RocketLaunching, is None: optimizers of ``torch.optim`` leave those alone, weight decay included, where
    ``torch.func.grad`` gives zeros. DDP then needs ``find_unused_parameters=True``, or ``outputs`` and a loss of all.

    Raises:
        ConfigError: ``params`` without ``state``, trees of another structure than the model's, ``outputs`` of a model
            that has none.

    ``pickle`` and ``torch.save`` of the module itself store the model as its config, and need a factory beside the
    config's class, such as ``def deepfm(config: DeepFMConfig) -> Model``; copies and ``state_dict`` need nothing.
    """

    key: Tensor
    step: Tensor

    def __init__(
        self,
        model: Model,
        params: TensorDict | None = None,
        state: TensorDict | None = None,
        *,
        key: Tensor | None = None,
        outputs: bool = False,
    ) -> None:
        super().__init__()
        if (params is None) != (state is None):
            fail(ConfigError, "ModelModule: params and state", got="one of them", expected="both or neither")
        if outputs and model.outputs is None:
            fail(ConfigError, "ModelModule: outputs=True", got="a model that has logits only", fix="leave it out")
        key = make_key(0) if key is None else key
        own = model.init(fold_in(key, "model"))
        if params is None or state is None:
            params, state = own
        for name, given, expected in (("params", params, own[0]), ("state", state, own[1])):
            _check_structure(name, given, expected)
        self._held, self.outputs = _Held(model), outputs
        self.params = Tree(params, trainable=True)
        self.state = Tree(state, trainable=False)
        self.register_buffer("key", fold_in(key, "train"))
        self.register_buffer("step", torch.zeros_like(self.key))

    @property
    def model(self) -> Model:
        return self._held.model

    def forward(self, emb: TensorDict | Mapping[str, Any], batch: TensorDict | Mapping[str, Any]):
        """Logits ``[B, C]``, or all outputs by name; ``emb`` and ``batch`` may be nested dicts."""
        emb, batch = _as_tensordict(emb), _as_tensordict(batch)
        f = self.model.outputs if self.outputs else self.model.apply
        assert f is not None
        if not self.training:
            return f(self.params.values(), emb, batch, self.state.values())[0]
        held = self.state.values()
        y, new = f(self.params.values(), emb, batch, held, key=self._next_key(), train=True)
        with torch.no_grad():
            for old, value in zip(leaves(held), leaves(new), strict=True):
                old.copy_(value.detach())
            self.step.add_(1)
        return y

    def _next_key(self) -> Tensor:
        key = fold_in(self.key, self.step)
        spread = torch.distributed.is_available() and torch.distributed.is_initialized()
        return fold_in(key, torch.distributed.get_rank()) if spread else key


class Ranker(nn.Module):
    """``Batch -> logits [B, C]``: a :class:`ModelModule` (``dense``) and its tables (``tables``) in one module.

    Tables of one dim are one parameter ``[Σ rows, dim]``, ``tables.dim16``; :meth:`table` is the part of one of them.
    Their gradient is dense: any optimizer of ``torch.optim`` will do, and none of them is fast for large tables. The
    stores of ``funcrec.embedding`` are. ``torch.compile`` compiles what follows the lookup.
    """

    def __init__(
        self, model: Model, spec: EmbeddingSpec, *, key: Tensor | None = None, tables: TensorDict | None = None
    ) -> None:
        super().__init__()
        key = make_key(0) if key is None else key
        own = init_weights(spec, fold_in(key, "tables"))
        if tables is not None:
            _check_structure("tables", tables, own)
        self.spec = spec
        self.tables = Tree(own if tables is None else tables, trainable=True)
        self.dense = ModelModule(model, key=key)

    def forward(self, batch: Batch):
        """Look up ``batch.ids`` and apply the model to ``batch.features``."""
        emb, _ = _look_up(self.spec, self.tables.values(), batch.ids)
        return self.dense(emb, batch.features)

    def table(self, name: str) -> Tensor:
        """A view ``[rows, dim]`` of one table, by its name in the spec."""
        return self.spec.table(self.tables.values(), name)


# Checks and lengths of ids depend on their values: torch.compile takes the lookup as it is, and compiles what follows.
_look_up = torch.compiler.disable(gather)


def functional(module: ModelModule) -> tuple[TensorDict, TensorDict]:
    """Copies of the parameters and the running statistics, as ``model.apply`` takes them."""
    return module.params.values().detach().clone(), module.state.values().detach().clone()


def to_module(
    model: Model, params: TensorDict, state: TensorDict, *, key: Tensor | None = None, outputs: bool = False
) -> ModelModule:
    """The module with copies of these values: ``functional(to_module(model, p, s))`` is ``(p, s)``."""
    return ModelModule(model, params, state, key=key, outputs=outputs)


def _check_structure(name: str, given: TensorDict, expected: TensorDict) -> None:
    shapes = lambda t: dict(zip(paths(t), (tuple(x.shape) for x in leaves(t)), strict=True))  # noqa: E731
    got, wanted = shapes(given), shapes(expected)
    odd = {p: (got.get(p), wanted.get(p)) for p in {**got, **wanted} if got.get(p) != wanted.get(p)}
    if odd:
        fix = "give the trees that this model's init makes"
        fail(ConfigError, f"{name}: leaves (got, expected) that are not the model's", got=odd, fix=fix)


def _as_tensordict(x: TensorDict | Mapping[str, Any]) -> TensorDict:
    if isinstance(x, TensorDict):
        return x
    entries: dict[str, Any] = dict(x.items())
    return TensorDict({k: v if isinstance(v, Tensor) else _as_tensordict(v) for k, v in entries.items()}, batch_size=[])


class _Held:
    """A model inside a module: a value that copies share, stored as its config."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> _Held:
        return self

    def __reduce__(self):
        model, factories = self.model, _factories(type(self.model.config))
        made = factories[0](model.config) if len(factories) == 1 else None
        # Other groups or functions: what was stored would be another model.
        if made is None or (made.groups, *_names(made)) != (model.groups, *_names(model)):
            what, expected = f"pickle of a module of {type(model.config).__name__}", "a factory beside its config"
            fix = "save module.state_dict(), and make the module again from your own code"
            fail(FuncrecError, what, got="none that makes this model", expected=expected, fix=fix)
        return _made, (model.config,)


def _made(config: Any) -> _Held:
    return _Held(_factories(type(config))[0](config))


def _factories(kind: type) -> list[Callable[[Any], Model]]:
    """The functions of the config's own module that are annotated to make a model from it alone."""
    functions = [f for _, f in inspect.getmembers(sys.modules[kind.__module__], inspect.isfunction)]
    own = [f for f in functions if f.__module__ == kind.__module__]
    annotated = lambda f: [getattr(a, "__name__", a) for a in inspect.get_annotations(f).values()]  # noqa: E731
    return [f for f in own if annotated(f) == [kind.__name__, "Model"]]


def _names(model: Model) -> list[str]:
    return [getattr(f, "__qualname__", "") for f in (model.init, model.apply, model.outputs)]

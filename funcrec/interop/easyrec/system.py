"""A pipeline config as one value: a model, its tables, and pure functions under the original's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tensordict import TensorDict
from torch import Tensor

from funcrec.core.batch import Batch
from funcrec.core.errors import ConfigError, fail
from funcrec.core.groups import Group
from funcrec.core.model import Model
from funcrec.core.random import fold_in
from funcrec.core.tree import paths
from funcrec.embedding.lookup import gather
from funcrec.embedding.spec import EmbeddingSpec
from funcrec.embedding.store import init_weights
from funcrec.interop.easyrec import batches, forward, heads
from funcrec.interop.easyrec.collate import build_batch
from funcrec.interop.easyrec.features import Feature
from funcrec.interop.easyrec.layer_names import Name
from funcrec.interop.easyrec.messages import Message
from funcrec.interop.easyrec.variables import every_name, init_dense, structure
from funcrec.interop.easyrec.weights import export_weights, import_weights
from funcrec.metrics import Metric

Variables = TensorDict
"""``{"params", "state", "tables"}``, float leaves only. ``tables`` are the stacks of ``spec``, as in a store."""

Result = tuple[Tensor, tuple[dict[str, Tensor], dict[str, Tensor], TensorDict]]


@dataclass(frozen=True, eq=False, kw_only=True)
class System:
    """What :func:`~funcrec.interop.easyrec.parse` returns.

    Attributes:
        config: the message of the whole pipeline config.
        kind: the name of the model there.
        model, spec: the model and tables here; ``model`` reads its groups only, ``spec`` holds every table.
        unused: groups that the original embeds and the model does not read.
        features: by name.
        frozen_tables: tables with ``trainable: false``.
        constraints: messages of tables whose features have ``embedding_constraints``.
        ignored: the set fields that have no effect here: paths, data reading, feature generation, export.
    """

    config: Message
    kind: str
    model: Model
    spec: EmbeddingSpec
    unused: tuple[Group, ...]
    features: Mapping[str, Feature]
    frozen_tables: tuple[str, ...] = ()
    constraints: Mapping[str, Message] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _ = self.names  # every leaf has its name

    @property
    def train_config(self) -> Message:
        """The message of the config's ``train_config``."""
        return self.config.train_config

    @property
    def n_classes(self) -> int:
        """Width of the logits."""
        return self.config.model_config.num_class

    @cached_property
    def loss_kinds(self) -> tuple[str, ...]:
        """The names of the losses."""
        return tuple(c.WhichOneof("loss") for c in self.config.model_config.losses)

    @cached_property
    def session(self) -> str:
        """The feature whose ids are the sessions of ``jrc_loss``; empty without one."""
        losses = self.config.model_config.losses
        return next((c.jrc_loss.session_name for c in losses if c.WhichOneof("loss") == "jrc_loss"), "")

    @cached_property
    def groupings(self) -> frozenset[str]:
        """The features that metrics group by."""
        bodies = [getattr(m, str(m.WhichOneof("metric"))) for m in self.config.model_config.metrics]
        return frozenset(getattr(body, "grouping_key", "") for body in bodies) - {""}

    @cached_property
    def moving(self) -> tuple[Group, ...]:
        """The unused groups with encoders: training moves their statistics although nobody reads their output."""
        return tuple(Group(g.name, encoded=g.encoded) for g in self.unused if g.encoded)

    @cached_property
    def _structure(self) -> TensorDict:
        return structure(self)

    @cached_property
    def names(self) -> list[Name]:
        """The original's state-dict name of every leaf, table and constant."""
        return every_name(self, self._structure)

    def init(self, key: Tensor) -> Variables:
        """New variables, by the initial laws of the original."""
        params, state = init_dense(self, key)
        tables = init_weights(self.spec, fold_in(key, "tables"))
        return TensorDict({"params": params, "state": state, "tables": tables}, batch_size=[])

    def parameter_names(self, params: TensorDict) -> tuple[str, ...]:
        """The original's parameter of every leaf of ``params``, in the order of ``core.tree.paths``."""
        theirs = {".".join(n.path): n.parameter for n in self.names if n.section == "params"}
        return tuple(theirs[p] for p in paths(params))

    def import_weights(self, state_dict: Mapping[str, Tensor]) -> Variables:
        """Variables from the original's state dict, dtypes kept.

        Raises:
            CheckpointError: missing, unexpected or mis-shaped names, all in one message.
        """
        return import_weights(self.names, self.spec, self._structure, state_dict)

    def export_weights(self, variables: TensorDict) -> dict[str, Tensor]:
        """A tree of the structure of the variables, gradients say, under the original's names and in its shapes."""
        return export_weights(self.names, self.spec, variables)

    def batch(
        self,
        sparse: Mapping[str, batches.Jagged] | None = None,
        dense: Mapping[str, Tensor] | None = None,
        sequence_dense: Mapping[str, batches.Jagged] | None = None,
        labels: Mapping[str, Tensor] | Tensor | None = None,
        sample_weights: Mapping[str, Tensor] | Tensor | None = None,
    ) -> Batch:
        """One batch from the original's features.

        Args:
            sparse: by feature, ids of all rows one after the other and how many each row has: ``(values [nnz],
                lengths [B])``. Those of histories, too: one id a step, or with
                ``value_dim`` other than 1 ``(values, ids a step, steps a row)``. Elsewhere a third entry weighs ids.
            dense: raw numbers, ``[B, width]``.
            sequence_dense: raw numbers of histories, ``(values [nnz, width], lengths [B])``.
            labels: by label field, or the column itself; not needed for predictions.
            sample_weights: by weight field, or the column itself.

        Raises:
            DataError: an unknown or missing feature or field, or histories of one group that differ in length.
            ShapeError: something of another shape.
        """
        return build_batch(self, sparse or {}, dense or {}, sequence_dense or {}, labels, sample_weights)

    def losses_from_embeddings(
        self,
        params: TensorDict,
        emb: TensorDict,
        features: TensorDict,
        state: TensorDict,
        *,
        train: bool = True,
        key: Tensor | None = None,
    ) -> Result:
        """:meth:`losses` after the lookup: what a row-wise store differentiates."""
        return forward.losses(self, params, emb, features, state, train=train, key=key)

    def losses(self, variables: Variables, batch: Batch, *, train: bool = True, key: Tensor | None = None) -> Result:
        """``(total, (losses, predictions, state))``: every loss by its name there, and their sum.

        Differentiable in every leaf of ``variables``, tables included; computed in their dtype.

        Raises:
            DataError: a batch without labels, or without the sample weights that the config names.
            KeyMissingError: training with dropout and no ``key``.
        """
        emb, _ = gather(self.spec, variables["tables"], batch.ids)
        parts = variables["params"], emb, batch.features, variables["state"]
        return forward.losses(self, *parts, train=train, key=key)

    def apply(
        self, variables: Variables, batch: Batch, *, train: bool = False, key: Tensor | None = None
    ) -> tuple[dict[str, Tensor], TensorDict]:
        """Predictions by their names there, and the state: new where ``train``."""
        emb, _ = gather(self.spec, variables["tables"], batch.ids)
        params = variables["params"]
        features = forward.cast(batch.features, params)
        out, state = forward.run(self, params, emb, features, variables["state"], train=train, key=key)
        return forward.predictions(self, out), state

    @property
    def _suffix(self) -> str:
        return "_light" if self.kind == "rocket_launching" else ""

    def metrics(self) -> dict[str, Metric]:
        """The config's metrics by name; of RocketLaunching those of the net that serves, ``auc_light``.

        Raises:
            ConfigError: a metric that ranking models do not have.
        """
        return heads.read_metrics(list(self.config.model_config.metrics), self.n_classes, self._suffix)

    def metric_inputs(self, name: str, predictions: dict[str, Tensor], batch: Batch) -> tuple:
        """The arguments after the state of ``metrics()[name].update``."""
        by_name = {m.WhichOneof("metric") + self._suffix: m for m in self.config.model_config.metrics}
        if name not in by_name:
            fail(ConfigError, "metric", got=repr(name), expected=f"one of {sorted(by_name)}")
        return heads.metric_inputs(by_name[name], predictions, batch.features, self._suffix)

    def init_training(self, variables: Variables, **options: Any) -> Any:
        """See :func:`funcrec.interop.easyrec.training.init_training`."""
        from funcrec.interop.easyrec import training

        return training.init_training(self, variables, **options)

    def train_step(self, training_state: Any, batch: Batch, *, key: Tensor | None = None, **options: Any) -> Any:
        """See :func:`funcrec.interop.easyrec.training.train_step`."""
        from funcrec.interop.easyrec import training

        return training.train_step(self, training_state, batch, key=key, **options)

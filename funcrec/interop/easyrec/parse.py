"""The entry: the text of a pipeline config to a system."""

from __future__ import annotations

from collections.abc import Iterator

from funcrec.core.errors import ConfigError, fail
from funcrec.interop.easyrec.features import read_features
from funcrec.interop.easyrec.groups import read_groups
from funcrec.interop.easyrec.heads import check_losses, check_metrics, read_metrics
from funcrec.interop.easyrec.inert import check_fields
from funcrec.interop.easyrec.messages import Message, read_pipeline
from funcrec.interop.easyrec.models import MODELS
from funcrec.interop.easyrec.parts import Parts, unused_groups
from funcrec.interop.easyrec.system import System


def parse(config_text: str) -> System:
    """The system of a TorchEasyRec pipeline config (protobuf text format), its ranking part.

    Reads feature configs, groups, sequence groups and encoders, the eleven ranking models, losses, metrics and train
    config. Fields about paths, data reading, feature generation and export have no effect here: they are listed in
    ``System.ignored``.

    Raises:
        ConfigError: a field that the schema does not have (with its line), one that is not supported, or a config
            that describes no model; the message names the field and the remedy.
    """
    pipeline = read_pipeline(config_text)
    ignored = check_fields(pipeline)
    config = pipeline.model_config
    kind = config.WhichOneof("model")
    if kind is None:
        fail(ConfigError, "model_config: no model", expected=f"one of {sorted(MODELS)}")
    message = getattr(config, kind)
    kinds = check_losses(list(config.losses), config.num_class)
    features = read_features(list(pipeline.feature_configs), set(_used(config)))
    groups = read_groups(
        list(config.feature_groups),
        features,
        wide_dim=getattr(message, "wide_embedding_dim", 4) or 4,
        wide_init=getattr(message, "wide_init_fn", ""),
        variational=config.HasField("variational_dropout"),
    )
    model = MODELS[kind](Parts(kind, message, groups, config.num_class))
    unused = unused_groups(groups, model)
    for loss in config.losses:
        if loss.WhichOneof("loss") == "jrc_loss":
            _require_ids("jrc_loss.session_name", loss.jrc_loss.session_name, features)
    for metric in config.metrics:
        body = getattr(metric, str(metric.WhichOneof("metric")), None)
        if body is not None and hasattr(body, "grouping_key"):
            _require_ids(f"{metric.WhichOneof('metric')}.grouping_key", body.grouping_key, features)
    read_metrics(list(config.metrics), config.num_class, "")
    check_metrics([str(m.WhichOneof("metric")) for m in (*config.metrics, *config.train_metrics)], kinds)
    moving = tuple(g for g in unused if g.encoded)
    return System(
        config=pipeline,
        kind=kind,
        model=model,
        spec=groups.spec(model.groups, tuple(s for g in moving for s in g.sequences)),
        unused=unused,
        features=features,
        frozen_tables=tuple(sorted(groups.tables.frozen)),
        constraints=groups.tables.constraints,
        ignored=ignored,
    )


def _used(model_config: Message) -> Iterator[str]:
    """The features that groups list."""
    for group in model_config.feature_groups:
        yield from group.feature_names
        for nested in group.sequence_groups:
            yield from nested.feature_names


def _require_ids(what: str, name: str, features: dict) -> None:
    ids = sorted(n for n, f in features.items() if f.sparse and not f.sequence)
    if name not in ids:
        fail(ConfigError, what, got=repr(name), expected=f"an id feature, one of {ids}")

"""Fields that a config may set and that have no effect here, and those that cannot be honoured."""

from __future__ import annotations

import logging

from funcrec.core.errors import ConfigError, fail
from funcrec.interop.easyrec.messages import Message, set_fields

_LOG = logging.getLogger(__name__)

# Reading data, running, saving and exporting: the caller's business here.
_MESSAGES = ("EvalConfig", "ExportConfig", "Field", "ParameterConstraints", "TextNormalizer")
_FIELDS = {
    "EasyRecConfig": "train_input_path eval_input_path model_dir eval_config export_config item_input_path",
    "TrainConfig": "num_steps num_epochs save_checkpoints_steps fine_tune_checkpoint fine_tune_ckpt_param_map "
    "log_step_count_steps is_profiling use_tensorboard save_checkpoints_epochs tensorboard_summaries "
    "cudnn_allow_tf32 cuda_matmul_allow_tf32 global_embedding_constraints keep_checkpoint_max "
    "save_checkpoints_timestamp_interval save_checkpoints_timestamps save_checkpoints_timestamp_quorum",
    "ModelConfig": "kernel train_metrics",
    "*": "expression use_mask fg_encoded_default_value stub_type embedding_constraints sequence_length sequence_delim "
    "sequence_fields separator asset_dir default_value fg_value_type normalizer combiner value_separator key map "
    "need_discrete need_key nested_map pkey skey show_pkey show_skey variables fill_missing query title method "
    "text_normalizer tokenizer_type document kv_delimiter operator_name operator_lib_file operator_params "
    "is_op_thread_safe value_map sequence_pk name",
}
_DATA = {"label_fields", "sample_weight_fields"}
# Read by the original and without effect on its results either, or with another one than their names promise.
_SURPRISES = {
    "VariationalDropout.embedding_wise_variational_dropout": "the original accepts it and ignores it",
    "RocketLaunching.l2_regularization": "the original accepts it and ignores it",
    "IdFeature.weighted": "the original's unsharded tables ignore the weights of ids: so does a batch without weights",
}


def _inert(name: str) -> bool:
    message, field = name.split(".")
    if message in _MESSAGES or (message == "DataConfig" and field not in _DATA):
        return True
    if field in _FIELDS.get(message, "").split():
        return True
    return (message.endswith("Feature") or message in ("KvDotProduct", "SequenceFeature") or "Encoder" in message) and (
        field in _FIELDS["*"].split()
    )


def check_fields(config: Message) -> tuple[str, ...]:
    """The paths of the set fields that have no effect here; a warning is logged of those whose name promises one.

    Raises:
        ConfigError: a field that changes the mathematics in a way that is not supported.
    """
    data, model = config.data_config, config.model_config
    if data.WhichOneof("sampler") if "sampler" in data.DESCRIPTOR.oneofs_by_name else None:
        fail(ConfigError, "data_config: negative samplers are not supported", fix="sample before training")
    if model.use_pareto_loss_weight:
        fix = "the ranking models sum their losses; set it to false"
        fail(ConfigError, "model_config.use_pareto_loss_weight is not supported", fix=fix)
    found = set_fields(config)
    masked = [path for path, name, value in found if name.endswith(".use_mask") and value]
    if masked and data.sample_mask_prob > 0:
        fix = "blank the values of training rows before they come here, and set sample_mask_prob: 0"
        fail(ConfigError, "data_config.sample_mask_prob with use_mask is not supported", got=masked, fix=fix)
    surprises = [f"{path}: {_SURPRISES[name]}" for path, name, value in found if name in _SURPRISES and value]
    if surprises:
        _LOG.warning("fields without effect: %s", "; ".join(surprises))
    return tuple(path for path, name, _ in found if _inert(name) or name in _SURPRISES)

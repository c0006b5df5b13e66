"""A confusing config gets a sentence: the original's key words, and what to do about it."""

import pytest
import torch

from funcrec.core.errors import CheckpointError, ConfigError, DataError, ShapeError
from funcrec.core.random import key
from funcrec.interop.easyrec import parse

from .pipelines import (
    ALL,
    DCN,
    ENCODERS,
    FEATURES,
    HISTORY,
    MLP,
    PIPELINES,
    SPARSE_DENSE,
    TOWER,
    group,
    pipeline,
    random_inputs,
    random_variables,
)

DLRM = "dlrm {{ {} final {{ hidden_units: 3 }} }}"
WUKONG = (
    "wukong {{ {} wukong_layers {{ lcb_feature_num: 1 fmb_feature_num: 1 feature_num_mlp {{ hidden_units: 3 }} }} "
    "final {{ hidden_units: 3 }} }}"
)
HISTORY_2 = HISTORY.replace('"h"', '"h2"')
WITH_Z = group("all", "a", "z")
ENCODED = HISTORY + ENCODERS["mean"]
DENSE_5 = "dense_mlp { hidden_units: 5 }"


def extra(feature):
    return {"features": FEATURES + f"feature_configs {{ {feature} }}\n"}


def masked(block):
    return f"mask_net {{ mask_net_module {{ n_mask_blocks: 1 mask_block {{ {block} }} top_mlp {{ {MLP} }} }} }}"


ERRORS = {
    # DLRM and WuKong
    "dense encoder": (
        group("dense", "price", more=ENCODED) + group("sparse", "a", "b"),
        DLRM.format(DENSE_5),
        {},
        "dense group not have sequence features",
    ),
    "sparse encoder": (
        group("sparse", "a", "b", more=ENCODED),
        WUKONG.format(""),
        {},
        "sparse group not have sequence features",
    ),
    "sparse dims": (
        group("dense", "price") + group("sparse", "a", "word"),
        DLRM.format(DENSE_5),
        {},
        "sparse group feature dims must be the same, but we find .*'word': 3",
    ),
    "raw sparse": (group("s", "a", "price"), DLRM.format(""), {}, "sparse group feature dims must be the same"),
    "dense mlp dim": (
        SPARSE_DENSE,
        WUKONG.format(DENSE_5),
        {},
        "dense mlp last hidden_unit must be the same sparse feature dim: got 5, expected 4",
    ),
    "no dense mlp": (SPARSE_DENSE, DLRM.format(""), {}, "dlrm.dense_mlp is not set"),
    "no sparse": (group("x", "a") + group("y", "b"), DLRM.format(""), {}, "dlrm: no group 'sparse'.*'x', 'y'"),
    # MLPs
    "no units": (ALL, "dcn_v1 { cross {} deep {} final { hidden_units: 3 } }", {}, "dcn_v1.deep.hidden_units is empty"),
    "no final": (ALL, f"dcn_v2 {{ cross {{}} deep {{ {MLP} }} }}", {}, "dcn_v2.final is not set"),
    "no cross": (ALL, f"dcn_v2 {{ final {{ {MLP} }} }}", {}, "dcn_v2.cross is not set"),
    "tower mlp": (
        ALL,
        f'multi_tower {{ towers {{ input: "all" }} final {{ {MLP} }} }}',
        {},
        "tower 'all'.mlp is not set",
    ),
    "bn and ln": (
        ALL,
        DCN.replace(MLP, f"{MLP} use_bn: true use_ln: true"),
        {},
        "dcn_v1.deep: Could not use_bn and use_ln at the same time",
    ),
    "dropout": (
        ALL,
        DCN.replace(MLP, f"{MLP} dropout_ratio: [0.1, 0.1, 0.1]"),
        {},
        "length of dropout_ratio and hidden_units must be same, but got 3 vs 2",
    ),
    "activation": (
        ALL,
        DCN.replace(MLP, f'{MLP} activation: "nn.Nothing"'),
        {},
        "dcn_v1.deep: Unknown activation method",
    ),
    # Models
    "fm dims": (
        group("wide", "a", kind="WIDE") + group("deep", "a", "word"),
        f"deepfm {{ deep {{ {MLP} }} }}",
        {},
        "embedding dimension of fm features must be same",
    ),
    "fm raw": (
        group("wide", "a", kind="WIDE") + group("deep", "a", "price"),
        f"deepfm {{ deep {{ {MLP} }} }}",
        {},
        "embedding dimension of fm features must be same",
    ),
    "wide raw": (
        group("wide", "a", "price", kind="WIDE") + group("deep", "a"),
        f"wide_and_deep {{ deep {{ {MLP} }} }}",
        {},
        r"dense feature \[price\] should not be configured in wide group",
    ),
    "no wide": (group("deep", "a"), f"wide_and_deep {{ deep {{ {MLP} }} }}", {}, "wide_and_deep: no group 'wide'"),
    "two towers": (
        ALL,
        TOWER.replace("final", f'towers {{ input: "all" mlp {{ {MLP} }} }} final'),
        {},
        "several towers on one group: got ..all",
    ),
    "din tower": (
        ALL,
        f'multi_tower_din {{ din_towers {{ input: "all" attn_mlp {{ {MLP} }} }} final {{ {MLP} }} }}',
        {},
        "no SEQUENCE group 'all'",
    ),
    "mask without width": (
        ALL,
        masked("hidden_dim: 3 reduction_ratio: 0"),
        {},
        "Either aggregation_dim or reduction_ratio must be provided",
    ),
    "no top": (
        ALL,
        "mask_net { mask_net_module { n_mask_blocks: 1 mask_block { hidden_dim: 3 } } }",
        {},
        "mask_net.mask_net_module.top_mlp is not set",
    ),
    # Sequences
    "groups alone": (group("all", "a", more=HISTORY), TOWER, {}, "has sequence_groups, but no sequence_encoders"),
    "encoders alone": (
        group("all", "a", more=ENCODERS["mean"]),
        TOWER,
        {},
        "has sequence_encoders, but no sequence_groups",
    ),
    "unnamed of many": (
        group("all", "a", more=HISTORY + HISTORY_2.replace('group_name: "h2"', "") + ENCODERS["mean"]),
        TOWER,
        {},
        "all has many sequence_groups, every sequence_group must has group_name",
    ),
    "no input": (
        group("all", "a", more=HISTORY + HISTORY_2 + ENCODERS["mean"]),
        TOWER,
        {},
        "multi sequence_groups, so sequence_encoders must has input",
    ),
    "unknown input": (
        group("all", "a", more=HISTORY + 'sequence_encoders { pooling_encoder { input: "x" } }'),
        TOWER,
        {},
        "all sequence_encoder input x not in sequence_groups",
    ),
    "unread history": (
        group("all", "a", more=HISTORY + HISTORY_2 + 'sequence_encoders { pooling_encoder { input: "h" } }'),
        TOWER,
        {},
        "all sequence_groups h2 not has seq_encoder",
    ),
    "repeated history": (
        group("all", "a", more=ENCODED) + group("other", "a", more=ENCODED),
        TOWER,
        {},
        "has repeat sequences groups_name: h",
    ),
    "wide history": (
        group("wide", "a", kind="WIDE", more=ENCODED) + group("deep", "a"),
        f"wide_and_deep {{ deep {{ {MLP} }} }}",
        {},
        "wide group group_type is not DEEP, sequence_groups and sequence_encoders must configured in DEEP",
    ),
    "long query": (
        group(
            "all",
            "a",
            more='sequence_groups { feature_names: "item" feature_names: "a" feature_names: "buys" }' + ENCODERS["din"],
        ),
        TOWER,
        {},
        "query_dim > sequence_dim not supported yet",
    ),
    "pooling type": (
        group("all", "a", more=HISTORY + 'sequence_encoders { pooling_encoder { pooling_type: "max" } }'),
        TOWER,
        {},
        r"only sum\|mean pooling type supported now",
    ),
    "heads": (
        group(
            "all",
            "a",
            more=HISTORY + "sequence_encoders { self_attention_encoder { multihead_attn_dim: 6 num_heads: 4 } }",
        ),
        TOWER,
        {},
        "multihead_attn_dim must be divisible by num_heads",
    ),
    "sequence in deep": (group("all", "a", "buys"), TOWER, {}, "sequence feature 'buys' in a DEEP group"),
    "learned number in history": (
        group("all", "a", more='sequence_groups { feature_names: "auto" feature_names: "buys" }' + ENCODERS["din"]),
        TOWER,
        {},
        "feature 'auto': got numbers with a dense embedding",
    ),
    "jagged": (group("all", "a", kind="JAGGED_SEQUENCE"), TOWER, {}, "group_type JAGGED_SEQUENCE"),
    # Features and tables
    "unknown feature": (group("all", "a", "nothing"), TOWER, {}, "feature 'nothing' is not in feature_configs"),
    "repeated feature": (
        ALL,
        DCN,
        extra('id_feature { feature_name: "a" num_buckets: 3 embedding_dim: 4 }'),
        "repeated",
    ),
    "a history first": (
        group("clicks", "click__item", kind="SEQUENCE") + ALL,
        DCN,
        {},
        "group 'clicks' is of group_type SEQUENCE: expected a DEEP or WIDE group",
    ),
    "no rows": (
        WITH_Z,
        DCN,
        extra('id_feature { feature_name: "z" embedding_dim: 4 }'),
        r"IdFeature\[z\] must set hash_bucket_size or num_buckets or vocab_list or vocab_dict",
    ),
    "no dim": (
        WITH_Z,
        DCN,
        extra('id_feature { feature_name: "z" num_buckets: 3 }'),
        r"embedding_dim should be greater than 0",
    ),
    "zch": (
        WITH_Z,
        DCN,
        extra('id_feature { feature_name: "z" embedding_dim: 4 zch { zch_size: 9 } }'),
        "zch is not supported",
    ),
    "dynamicemb": (
        WITH_Z,
        DCN,
        extra('id_feature { feature_name: "z" embedding_dim: 4 dynamicemb { max_capacity: 9 } }'),
        "dynamicemb is not supported",
    ),
    "vocab file": (
        WITH_Z,
        DCN,
        extra('id_feature { feature_name: "z" embedding_dim: 4 vocab_file: "x" }'),
        "a vocab_file, which is not read",
    ),
    "half": (
        WITH_Z,
        DCN,
        extra('id_feature { feature_name: "z" embedding_dim: 4 num_buckets: 3 data_type: "FP16" }'),
        "data_type: got 'FP16'",
    ),
    "law": (
        WITH_Z,
        DCN,
        extra('id_feature { feature_name: "z" embedding_dim: 4 num_buckets: 3 init_fn: "nn.init.odd_" }'),
        "initial law: got 'nn.init.odd_'",
    ),
    "law's arguments": (
        WITH_Z,
        DCN,
        extra('id_feature { feature_name: "z" embedding_dim: 4 num_buckets: 3 init_fn: "nn.init.uniform_,c=2" }'),
        "arguments of the initial law",
    ),
    "wide autodis": (
        WITH_Z,
        DCN,
        extra('raw_feature { feature_name: "z" value_dim: 2 embedding_dim: 4 autodis { num_channels: 2 } }'),
        "dense embedding do not support",
    ),
    "sharing": (
        group("all", "a", "z"),
        DCN,
        extra('id_feature { feature_name: "z" embedding_dim: 4 num_buckets: 3 embedding_name: "a_emb" }'),
        "table 'a_emb': can not share embedding",
    ),
    "colliding suffixes": (
        group("all", "w") + group("x", "z", more='embedding_name_suffix: "y"'),
        DCN,
        {
            "features": FEATURES + 'feature_configs { id_feature { feature_name: "z" embedding_dim: 4 num_buckets: 9 '
            'embedding_name: "t" } } feature_configs { id_feature { feature_name: "w" embedding_dim: 4 num_buckets: 9 '
            'embedding_name: "t_y" } }'
        },
        "embedding table name 't_y' is produced by groups with different embedding_name_suffix values",
    ),
    # Heads
    "classes of bce": (
        ALL,
        DCN,
        {"more": "num_class: 2"},
        "num_class must be 1 when loss type is binary_cross_entropy",
    ),
    "classes of softmax": (
        ALL,
        DCN,
        {"losses": "losses { softmax_cross_entropy {} }"},
        "num_class must be greater than 1 when loss type is softmax_cross_entropy",
    ),
    "classes of jrc": (
        ALL,
        DCN,
        {"losses": 'losses { jrc_loss { session_name: "a" } } num_class: 3'},
        "num_class must be 2 when loss type is jrc_loss",
    ),
    "sessions": (
        ALL,
        DCN,
        {"losses": 'losses { jrc_loss { session_name: "price" } } num_class: 2'},
        "jrc_loss.session_name: got 'price', expected an id feature",
    ),
    "no loss": (ALL, DCN, {"losses": ""}, "model_config.losses: got none"),
    "empty loss": (ALL, DCN, {"losses": "losses {}"}, "model_config.losses: got an empty entry"),
    "focal": (
        ALL,
        DCN,
        {"losses": "losses { binary_focal_loss { alpha: 1.5 } }"},
        r"model_config.losses: binary_focal_loss: focal: gamma and alpha: got \(2.0, 1.5\)",
    ),
    "smoothing": (
        ALL,
        DCN,
        {"losses": "losses { binary_cross_entropy { label_smoothing: 1.5 } }"},
        "model_config.losses: binary_cross_entropy: bce: label_smoothing: got 1.5",
    ),
    "share of jrc": (
        ALL,
        DCN,
        {"losses": 'losses { jrc_loss { session_name: "a" alpha: 2 } } num_class: 2'},
        "model_config.losses: jrc_loss: .*alpha: got 2.0",
    ),
    "error of probabilities": (
        ALL,
        DCN,
        {"more": "metrics { mean_absolute_error {} }"},
        r"metric mean_absolute_error: got losses \['binary_cross_entropy'\], expected l2_loss among them",
    ),
    "recall in training": (
        ALL,
        DCN,
        {"more": "train_metrics { recall_at_k {} }"},
        "recall_at_k is not supported for this model",
    ),
    "recall": (ALL, DCN, {"more": "metrics { recall_at_k {} }"}, "recall_at_k is not supported for this model"),
    "auc of three": (
        ALL,
        DCN,
        {"losses": "losses { softmax_cross_entropy {} } num_class: 3", "more": "metrics { auc {} }"},
        "num_class must less than 2 when metric type is auc",
    ),
    "grouping": (
        ALL,
        DCN,
        {"more": 'metrics { grouped_auc { grouping_key: "x" } }'},
        "grouped_auc.grouping_key: got 'x'",
    ),
    "pareto": (ALL, DCN, {"more": "use_pareto_loss_weight: true"}, "use_pareto_loss_weight is not supported"),
    "masking": (
        ALL,
        DCN,
        extra('id_feature { feature_name: "z" embedding_dim: 4 num_buckets: 3 use_mask: true }')
        | {"data": "sample_mask_prob: 0.1"},
        "sample_mask_prob with use_mask is not supported",
    ),
    # The text itself
    "no model": (ALL, "", {}, "model_config: no model"),
    "other model": (ALL, "mmoe {}", {}, r"line \d+: message ModelConfig has no field 'mmoe'"),
    "typo": (ALL, DCN.replace("cross_num", "cros_num"), {}, r"line \d+: message Cross has no field 'cros_num'"),
    "type": (ALL, DCN.replace("cross_num: 2", "cross_num: two"), {}, r"line \d+: .*[Cc]ouldn't parse integer"),
    "required": (ALL, "mask_net { mask_net_module { n_mask_blocks: 1 } }", {}, "required fields left out.*mask_block"),
}


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_configs(name):
    groups, model, options, message = ERRORS[name]
    with pytest.raises(ConfigError, match=message) as caught:
        parse(pipeline(groups, model, **options))
    assert str(caught.value).endswith(".")


def test_the_line_of_an_unknown_field_is_right():
    text = pipeline(ALL, "\n\n" + DCN.replace("final", "\nfinall"))
    line = next(i for i, row in enumerate(text.splitlines(), start=1) if "finall" in row)
    with pytest.raises(ConfigError, match=f"line {line}: message DCNV1 has no field 'finall'.*'final'"):
        parse(text)


def test_fields_without_effect_are_listed_and_surprising_ones_logged(caplog):
    assert "feature_configs[0].id_feature.expression" in parse(PIPELINES["dcn"]).ignored
    assert not caplog.records
    system = parse(pipeline(ALL, DCN, more="variational_dropout { embedding_wise_variational_dropout: true }"))
    assert "embedding_wise_variational_dropout: the original accepts it and ignores it" in caplog.text
    assert system.ignored[-1].endswith("embedding_wise_variational_dropout")


def test_weights_that_do_not_fit_are_all_named():
    system = parse(PIPELINES["encoder_windows"])
    weights = dict(system.export_weights(random_variables(system)))
    weights["extra.weight"] = torch.zeros(2)
    weights["towers.all.mlp.0.perceptron.0.bias"] = torch.zeros(9)
    del weights["output_mlp.bias"]
    name = next(n for n in weights if n.endswith("cumsum_windows_len"))
    weights[name] = weights[name] + 1
    with pytest.raises(CheckpointError) as caught:
        system.import_weights(weights)
    for part in (
        "missing: ['output_mlp.bias']",
        "unexpected: ['extra.weight']",
        "towers.all.mlp.0.perceptron.0.bias (9,), expected (6,)",
        "cumsum_windows_len [1, 2], expected [0, 1]",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_one_fault_is_enough(fault):
    system = parse(PIPELINES["dcn"])
    weights = dict(system.export_weights(random_variables(system)))
    if fault == "missing":
        del weights["cross.b.0"]
    else:
        weights["cross.b.7" if fault == "unexpected" else "cross.b.0"] = torch.zeros(2)
    with pytest.raises(CheckpointError, match=r"cross\.b"):
        system.import_weights(weights)


def test_constants_may_be_left_out():
    system = parse(PIPELINES["encoder_windows"])
    weights = dict(system.export_weights(random_variables(system)))
    rest = {k: v for k, v in weights.items() if not k.endswith("windows_len")}
    assert len(rest) == len(weights) - 2
    assert dict(system.export_weights(system.import_weights(rest))).keys() == weights.keys()


def test_state_of_metrics_is_left_out_and_logged(caplog):
    system = parse(PIPELINES["dcn"])
    weights = dict(system.export_weights(random_variables(system)))
    back = system.import_weights(weights | {"_train_metric_modules.auc.x": torch.zeros(1)})
    assert set(system.export_weights(back)) == set(weights)
    assert "_train_metric_modules.auc.x" in caplog.text


def change(inputs, part, name, value):
    inputs = inputs | {part: dict(inputs[part])}
    inputs[part].pop(name) if value is None else inputs[part].update({name: value})
    return inputs


@pytest.mark.parametrize(
    ("part", "name", "value", "error", "message"),
    [
        ("sparse", "a", None, DataError, r"missing sparse features: .*expected also \['a'\]"),
        ("sparse", "nobody", (torch.zeros(7).long(), torch.ones(7).long()), DataError, r"unknown sparse .*'nobody'"),
        (
            "sparse",
            "a",
            (torch.zeros(7).long(), torch.ones(6).long()),
            ShapeError,
            "sparse feature 'a': lengths: got sum 6",
        ),
        ("sparse", "a", (torch.zeros(7), torch.ones(7).long()), ShapeError, "sparse feature 'a': got values .*float"),
        ("sparse", "a", (torch.zeros(8).long(), torch.ones(8).long()), ShapeError, "batch: rows: got .*'a': 8"),
        (
            "sparse",
            "c",
            (torch.zeros(8).long(), torch.tensor([2, 1, 1, 1, 1, 1, 1])),
            DataError,
            "'c': ids: got 2 in one",
        ),
        ("dense", "price", None, DataError, "missing dense features"),
        ("dense", "price", torch.zeros(7, 2), ShapeError, r"dense feature 'price': got \(7, 2\), expected \[B, 1\]"),
        ("labels", "label", None, DataError, "batch: labels: .*expected 'label'"),
        ("labels", "label", torch.zeros(7, 2), ShapeError, r"batch: labels 'label': got \(7, 2\)"),
    ],
)
def test_batches(part, name, value, error, message):
    system = parse(PIPELINES["dcn"])
    with pytest.raises(error, match=message):
        system.batch(**change(random_inputs(system), part, name, value))


def test_histories_of_one_group_have_one_length():
    system = parse(PIPELINES["encoder_mean"])
    inputs = random_inputs(system)
    lengths = inputs["sparse"]["click__item"][1]
    shorter = (torch.zeros(int(lengths.sum()) - 1).long(), torch.cat([lengths[:-1], lengths[-1:] - 1]))
    with pytest.raises(DataError, match=r"h: lengths of .'click__cate'. differ from those of 'click__item'"):
        system.batch(**change(inputs, "sparse", "click__cate", shorter))
    bags = parse(PIPELINES["bags"])
    inputs = random_inputs(bags)
    with pytest.raises(ShapeError, match=r"'tags': got 2 tensors, expected .values, ids of each step"):
        bags.batch(**change(inputs, "sparse", "tags", inputs["sparse"]["tags"][:2]))


def test_losses_need_labels_and_weights():
    system = parse(PIPELINES["focal_and_bce"])
    variables, inputs = system.init(key(0)), random_inputs(system, dtype=torch.float32)
    with pytest.raises(DataError, match="no labels in the batch"):
        system.losses(variables, system.batch(**inputs | {"labels": None}))
    with pytest.raises(DataError, match="no sample weights 'weight' in the batch"):
        system.losses(variables, system.batch(**inputs | {"sample_weights": None}))
    plain = parse(PIPELINES["dcn"])
    with pytest.raises(DataError, match="a config without sample_weight_fields"):
        plain.batch(**inputs)
    sessions = parse(PIPELINES["jrc"])
    batch = sessions.batch(**change(random_inputs(sessions), "sparse", "word", None))
    with pytest.raises(DataError, match="no ids of the session feature 'word'"):
        sessions.losses(sessions.init(key(0)), batch)

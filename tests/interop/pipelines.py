"""Small pipeline configs of every option, and random batches for them."""

from __future__ import annotations

import torch

FEATURES = """
feature_configs { id_feature { feature_name: "a" expression: "user:a" num_buckets: 9 embedding_dim: 4 } }
feature_configs { id_feature { feature_name: "b" expression: "user:b" num_buckets: 7 embedding_dim: 4
  pooling: "mean" } }
feature_configs { id_feature { feature_name: "c" hash_bucket_size: 5 embedding_dim: 4 embedding_name: "shared"
  value_dim: 1 init_fn: "nn.init.normal_,mean=0.0,std=0.1" } }
feature_configs { id_feature { feature_name: "d" hash_bucket_size: 5 embedding_dim: 4 embedding_name: "shared"
  init_fn: "nn.init.normal_,mean=0.0,std=0.1" } }
feature_configs { id_feature { feature_name: "word" vocab_list: ["x", "y", "z"] embedding_dim: 3 } }
feature_configs { combo_feature { feature_name: "combo" expression: ["user:a", "user:b"] hash_bucket_size: 11
  embedding_dim: 4 } }
feature_configs { raw_feature { feature_name: "price" expression: "item:price" } }
feature_configs { raw_feature { feature_name: "pair" expression: "item:pair" value_dim: 2 } }
feature_configs { raw_feature { feature_name: "level" boundaries: [0.1, 0.5, 0.9] embedding_dim: 4 } }
feature_configs { raw_feature { feature_name: "auto" embedding_dim: 4 autodis { num_channels: 3 } } }
feature_configs { raw_feature { feature_name: "auto2" embedding_dim: 4 autodis { num_channels: 3 } } }
feature_configs { raw_feature { feature_name: "line" embedding_dim: 4 mlp {} } }
feature_configs { raw_feature { feature_name: "line2" embedding_dim: 4 mlp {} } }
feature_configs { raw_feature { feature_name: "plane" value_dim: 2 embedding_dim: 4 mlp {} } }
feature_configs { id_feature { feature_name: "item" num_buckets: 12 embedding_dim: 4 embedding_name: "item" } }
feature_configs { id_feature { feature_name: "cate" num_buckets: 6 embedding_dim: 3 } }
feature_configs { sequence_feature { sequence_name: "click" sequence_length: 9 sequence_delim: "|"
  features { id_feature { feature_name: "item" num_buckets: 12 embedding_dim: 4 embedding_name: "item" } }
  features { id_feature { feature_name: "cate" num_buckets: 6 embedding_dim: 3 } }
  features { raw_feature { feature_name: "ts" } } } }
feature_configs { sequence_id_feature { feature_name: "buys" num_buckets: 12 embedding_dim: 4 } }
feature_configs { sequence_id_feature { feature_name: "tags" num_buckets: 8 embedding_dim: 4 value_dim: 0
  pooling: "mean" } }
"""

MLP = "hidden_units: [6, 5]"


def group(name: str, *features: str, kind: str = "DEEP", more: str = "") -> str:
    names = " ".join(f'feature_names: "{f}"' for f in features)
    return f'feature_groups {{ group_name: "{name}" group_type: {kind} {names} {more} }}\n'


def pipeline(
    groups: str,
    model: str,
    *,
    losses: str = "losses { binary_cross_entropy {} }",
    more: str = "",
    data: str = "",
    features: str = FEATURES,
) -> str:
    return (
        f'data_config {{ label_fields: "label" {data} }}\n{features}\n'
        f"model_config {{\n{groups}{model}\n{losses}\n{more}\n}}\n"
    )


HISTORY = (
    'sequence_groups { group_name: "h" feature_names: "item" feature_names: "cate" feature_names: "click__item" '
    'feature_names: "click__cate" }'
)
ENCODERS = {
    "din": "sequence_encoders { din_encoder { attn_mlp { hidden_units: [5, 3] } max_seq_length: 2 } }",
    "din_bn": "sequence_encoders { din_encoder { attn_mlp { hidden_units: [5, 3] use_bn: true } } }",
    "din_dice": 'sequence_encoders { din_encoder { attn_mlp { hidden_units: [5] activation: "Dice" } } }',
    "din_ln": "sequence_encoders { din_encoder { attn_mlp { hidden_units: [5] use_ln: true "
    'activation: "nn.PReLU" } } }',
    "simple": "sequence_encoders { simple_attention { max_seq_length: 3 } }",
    "mean": "sequence_encoders { pooling_encoder {} }",
    "sum": 'sequence_encoders { pooling_encoder { pooling_type: "sum" max_seq_length: 2 } }',
    "self": "sequence_encoders { self_attention_encoder { multihead_attn_dim: 6 num_heads: 2 max_seq_length: 3 } }",
    "windows": "sequence_encoders { multi_window_din_encoder { windows_len: [1, 2] attn_mlp { hidden_units: [5] "
    "use_bn: true } } }",
}
ALL = group("all", "a", "b", "c", "price")
WIDE_DEEP = group("wide", "a", "b", kind="WIDE") + group("deep", "a", "b", "c", "price")
SPARSE_DENSE = group("dense", "price", "pair") + group("sparse", "a", "b", "c", "level")
DCN = f"dcn_v1 {{ cross {{ cross_num: 2 }} deep {{ {MLP} }} final {{ hidden_units: 3 }} }}"
TOWER = f'multi_tower {{ towers {{ input: "all" mlp {{ {MLP} }} }} final {{ hidden_units: 3 }} }}'
SOFTMAX3 = {"losses": "losses { softmax_cross_entropy { label_smoothing: 0.1 } } num_class: 3"}

PIPELINES = {
    "wide_and_deep": pipeline(WIDE_DEEP, f"wide_and_deep {{ deep {{ {MLP} }} }}"),
    "wide_and_deep_final": pipeline(
        WIDE_DEEP,
        f'wide_and_deep {{ deep {{ {MLP} }} final {{ {MLP} }} wide_embedding_dim: 2 wide_init_fn: "nn.init.zeros_" }}',
    ),
    "wide_and_deep_classes": pipeline(WIDE_DEEP, f"wide_and_deep {{ deep {{ {MLP} }} }}", **SOFTMAX3),
    "deepfm": pipeline(WIDE_DEEP + group("fm", "a", "b", "c"), f"deepfm {{ deep {{ {MLP} use_bn: true }} }}"),
    "deepfm_numbers": pipeline(
        group("wide", "a", kind="WIDE") + group("deep", "a", "auto", "auto2", "line", "line2", "plane", "level"),
        f"deepfm {{ deep {{ {MLP} }} final {{ {MLP} use_ln: true }} }}",
    ),
    "multi_tower": pipeline(
        ALL + group("other", "word", "combo", "pair"),
        f'multi_tower {{ towers {{ input: "all" mlp {{ {MLP} }} }} towers {{ input: "other" mlp {{ {MLP} '
        f'activation: "nn.LeakyReLU(negative_slope=0.2)" }} }} final {{ {MLP} activation: "" bias: false }} }}',
    ),
    "din": pipeline(
        ALL + group("hist", "item", "cate", "click__item", "click__cate", "click__ts", kind="SEQUENCE"),
        f'multi_tower_din {{ towers {{ input: "all" mlp {{ {MLP} }} }} din_towers {{ input: "hist" attn_mlp '
        '{ hidden_units: [4] use_bn: true activation: "nn.PReLU" } } final { hidden_units: 3 } }',
    ),
    "din_two_alone": pipeline(
        group("hist", "item", "click__item", kind="SEQUENCE") + group("more", "item", "buys", kind="SEQUENCE"),
        'multi_tower_din { din_towers { input: "hist" attn_mlp { hidden_units: [4] } } '
        'din_towers { input: "more" attn_mlp { hidden_units: [4] activation: "Dice" } } final { hidden_units: 3 } }',
    ),
    "rocket": pipeline(
        ALL, f"rocket_launching {{ share_mlp {{ {MLP} use_bn: true }} booster_mlp {{ {MLP} }} light_mlp {{ {MLP} }} }}"
    ),
    "rocket_inner_classes_weights": pipeline(
        ALL,
        f"rocket_launching {{ booster_mlp {{ hidden_units: [6, 6] use_bn: true }} light_mlp {{ {MLP} }} "
        "feature_based_distillation: true feature_distillation_function: INNER_PRODUCT }",
        losses="losses { softmax_cross_entropy {} } num_class: 2",
        data='sample_weight_fields: "weight"',
    ),
    "rocket_no_pairs": pipeline(
        ALL,
        "rocket_launching { booster_mlp { hidden_units: [6] } light_mlp { hidden_units: [4] } "
        "feature_based_distillation: true }",
    ),
    "dlrm": pipeline(SPARSE_DENSE, "dlrm { dense_mlp { hidden_units: [5, 4] } final { hidden_units: 3 } }"),
    "dlrm_alone": pipeline(
        group("whatever", "a", "b", "level"), "dlrm { final { hidden_units: 3 } arch_with_sparse: false }"
    ),
    "masknet": pipeline(
        ALL,
        "mask_net { mask_net_module { n_mask_blocks: 2 mask_block { hidden_dim: 3 aggregation_dim: 2 } "
        f"top_mlp {{ {MLP} use_ln: true }} }} }}",
    ),
    "masknet_serial": pipeline(
        ALL,
        "mask_net { mask_net_module { n_mask_blocks: 3 use_parallel: false mask_block { hidden_dim: 3 "
        f"aggregation_dim: 2 reduction_ratio: 0 }} top_mlp {{ {MLP} }} }} }}",
    ),
    "dcn": pipeline(ALL, DCN),
    "dcn_more_groups": pipeline(
        ALL + group("unread", "word", "auto", "line", more=HISTORY + ENCODERS["din_bn"]) + group("s", "a", "b"), DCN
    ),
    "dcn_numbers_in_two_groups": pipeline(group("all", "a", "auto", "line") + group("unread", "auto", "line2"), DCN),
    "dcn_v2": pipeline(ALL, f"dcn_v2 {{ cross {{ low_rank: 3 }} final {{ {MLP} }} }}"),
    "dcn_v2_all": pipeline(
        ALL,
        f"dcn_v2 {{ backbone {{ {MLP} }} cross {{ cross_num: 2 low_rank: 3 }} deep {{ {MLP} use_bn: true }} "
        f'final {{ {MLP} activation: "Dice" }} }}',
    ),
    "xdeepfm": pipeline(
        WIDE_DEEP, f"xdeepfm {{ cin {{ cin_layer_size: [4, 3] }} deep {{ {MLP} }} final {{ {MLP} }} }}"
    ),
    "wukong": pipeline(
        SPARSE_DENSE,
        "wukong { dense_mlp { hidden_units: [4] } wukong_layers { lcb_feature_num: 2 fmb_feature_num: 3 "
        "compressed_feature_num: 2 feature_num_mlp { hidden_units: [5] use_bn: true } } wukong_layers "
        "{ lcb_feature_num: 1 fmb_feature_num: 1 feature_num_mlp { hidden_units: [5] } } final { hidden_units: 3 } }",
    ),
    "wukong_alone": pipeline(
        group("whatever", "a", "b", "c"),
        "wukong { wukong_layers { lcb_feature_num: 2 fmb_feature_num: 1 feature_num_mlp { hidden_units: [5] } } "
        "final { hidden_units: 3 } }",
    ),
    "jrc": pipeline(ALL, DCN, losses='losses { jrc_loss { session_name: "word" alpha: 0.3 } } num_class: 2'),
    "jrc_and_softmax": pipeline(
        ALL,
        DCN,
        losses='losses { jrc_loss { session_name: "word" } } losses { softmax_cross_entropy {} } num_class: 2',
        data='sample_weight_fields: "weight"',
    ),
    "focal_and_bce": pipeline(
        ALL,
        DCN,
        losses="losses { binary_focal_loss { gamma: 1.5 alpha: 0.3 } } losses { binary_cross_entropy "
        "{ label_smoothing: 0.1 } }",
        data='sample_weight_fields: "weight"',
    ),
    "l2": pipeline(ALL, DCN, losses="losses { l2_loss {} }", more="metrics { mean_squared_error {} }"),
    "suffixes": pipeline(
        group("all", "a", "c", "d", more='embedding_name_suffix: "mine"') + group("wide", "a", "c", kind="WIDE"), DCN
    ),
    "variational": pipeline(
        WIDE_DEEP
        + group(
            "fm",
            "a",
            "b",
            more=HISTORY.replace('"click__cate"', '"click__cate"')
            .replace('feature_names: "cate"', "")
            .replace('feature_names: "click__cate"', "")
            + ENCODERS["mean"],
        ),
        f"deepfm {{ deep {{ {MLP} }} }}",
        more="variational_dropout { regularization_lambda: 0.05 }",
    ),
    "variational_unread": pipeline(
        ALL + group("unread", "a", "price", "b") + group("single", "a"), DCN, more="variational_dropout {}"
    ),
    "bags": pipeline(
        group("all", "a", more='sequence_groups { feature_names: "a" feature_names: "tags" }' + ENCODERS["din"]), TOWER
    ),
    **{
        f"encoder_{name}": pipeline(group("all", "a", "price", more=HISTORY + encoder), TOWER)
        for name, encoder in ENCODERS.items()
    },
    "two_encoders_one_unnamed": pipeline(
        group(
            "all",
            "a",
            more='sequence_groups { feature_names: "click__item" feature_names: "click__ts" }'
            + ENCODERS["mean"]
            + ENCODERS["sum"]
            + ENCODERS["self"],
        ),
        TOWER,
    ),
}


def random_batch(system, rows: int = 7, seed: int = 0):
    """A batch of every feature of a system."""
    return system.batch(**random_inputs(system, rows, seed))


def random_inputs(system, rows: int = 7, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict:
    """The arguments of ``System.batch``: several ids a row, empty rows, empty histories."""
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=g, dtype=dtype)  # noqa: E731
    ints = lambda high, *shape: torch.randint(0, high, shape, generator=g)  # noqa: E731
    sparse: dict = {}
    dense, sequence_dense = {}, {}
    steps: dict[str, torch.Tensor] = {}
    for name, f in system.features.items():
        if f.sequence:
            sequence = name.split("__")[0]
            lengths = steps.setdefault(sequence, ints(5, rows))
        if f.sparse:
            if not f.sequence:
                lengths = torch.ones(rows, dtype=torch.int64) if f.single or name == "item" else ints(4, rows)
            if f.bags:
                bags = ints(3, int(lengths.sum()))
                sparse[name] = (ints(f.rows, int(bags.sum())), bags, lengths)
                continue
            sparse[name] = (ints(f.rows, int(lengths.sum())), lengths)
        elif f.sequence:
            sequence_dense[name] = (rand(int(lengths.sum()), f.width), lengths)
        else:
            dense[name] = rand(rows, f.width)
    classes = max(system.n_classes, 2)
    labels = rand(rows) if "l2_loss" in system.loss_kinds else torch.arange(rows) % classes
    weights = {"weight": rand(rows) + 0.1} if system.config.data_config.sample_weight_fields else None
    return {
        "sparse": sparse,
        "dense": dense,
        "sequence_dense": sequence_dense,
        "labels": {"label": labels},
        "sample_weights": weights,
    }


def random_variables(system, seed: int = 0, dtype: torch.dtype = torch.float64):
    """Variables of which nothing is at its initial value."""
    from funcrec.core.random import key

    g = torch.Generator().manual_seed(seed)

    def redraw(name, x):
        if not x.is_floating_point():
            return x + 3
        fresh = torch.randn(x.shape, generator=g, dtype=dtype) * 0.5
        return fresh.abs() + 0.5 if name.endswith("running_var") else fresh

    exported = system.export_weights(system.init(key(0)))
    constants = {n.theirs for n in system.names if n.value is not None}
    return system.import_weights({k: v if k in constants else redraw(k, v) for k, v in exported.items()})

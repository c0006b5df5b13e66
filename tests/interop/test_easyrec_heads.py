"""Predictions, losses and metrics under the original's names, and the tables behind them."""

import math

import pytest
import torch
from torch.func import grad
from torch.nn import functional as F

from funcrec.core.random import key
from funcrec.core.tree import leaves, map_leaves
from funcrec.interop.easyrec import parse

from .pipelines import (
    ALL,
    DCN,
    ENCODERS,
    FEATURES,
    HISTORY,
    MLP,
    PIPELINES,
    TOWER,
    group,
    pipeline,
    random_batch,
    random_inputs,
    random_variables,
)


def evaluated(name):
    system = parse(PIPELINES[name])
    variables, inputs = random_variables(system), random_inputs(system)
    batch = system.batch(**inputs)
    total, (losses, predictions, _) = system.losses(variables, batch, train=False)
    assert torch.allclose(total, torch.stack(list(losses.values())).sum())
    assert set(predictions) == set(system.apply(variables, batch)[0])
    weight = inputs["sample_weights"]["weight"] if inputs["sample_weights"] else torch.ones(7).double()
    return losses, predictions, inputs, inputs["labels"]["label"], weight / weight.mean()


def test_binary_losses_of_one_head_are_joined():
    losses, predictions, _, label, weight = evaluated("focal_and_bce")
    z, y = predictions["logits"], label.double()
    assert set(predictions) == {"logits", "probs"}
    assert torch.allclose(predictions["probs"], torch.sigmoid(z))
    smooth = F.binary_cross_entropy_with_logits(z, y * 0.9 + 0.05, reduction="none")
    p, plain = torch.sigmoid(z), F.binary_cross_entropy_with_logits(z, y, reduction="none")
    modulated = (0.3 * y * (1 - p) ** 1.5 + 0.7 * (1 - y) * p**1.5) * plain
    assert set(losses) == {"binary_cross_entropy", "binary_focal_loss"}
    assert torch.allclose(losses["binary_cross_entropy"], (smooth * weight).mean())
    assert torch.allclose(losses["binary_focal_loss"], (modulated * weight).mean())


def test_softmax_over_three_classes():
    losses, predictions, _, label, _ = evaluated("wide_and_deep_classes")
    assert {k: v.shape for k, v in predictions.items()} == {"logits": (7, 3), "probs": (7, 3)}
    expected = F.cross_entropy(predictions["logits"], label, label_smoothing=0.1)
    assert torch.allclose(losses["softmax_cross_entropy"], expected)


@pytest.mark.parametrize(("name", "alpha"), [("jrc", 0.3), ("jrc_and_softmax", 0.5)])
def test_jrc_within_sessions(name, alpha):
    losses, predictions, inputs, label, weight = evaluated(name)
    values, lengths = inputs["sparse"]["word"]
    starts = lengths.cumsum(0) - lengths
    sessions = [int(values[s]) if n else 0 for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)]
    z = predictions["logits"]
    assert torch.equal(predictions["probs1"], predictions["probs"][:, 1])
    each = []
    for i, c in enumerate(label.tolist()):
        rivals = [j for j in range(7) if sessions[j] == sessions[i] and label[j] != c]
        each.append(torch.logsumexp(z[[i, *rivals], c], 0) - z[i, c])
    ranked = alpha * F.cross_entropy(z, label, reduction="none") + (1 - alpha) * torch.stack(each)
    assert torch.allclose(losses["jrc_loss"], (ranked * weight).mean())
    if "softmax_cross_entropy" in losses:
        plain = F.cross_entropy(z, label, reduction="none")
        assert torch.allclose(losses["softmax_cross_entropy"], (plain * weight).mean())


def test_the_first_id_of_a_row_is_its_session():
    system = parse(PIPELINES["jrc"])
    inputs = random_inputs(system)
    inputs["sparse"]["word"] = (torch.tensor([3, 1, 4, 2, 2]), torch.tensor([2, 0, 1, 0, 0, 2, 0]))
    assert system.batch(**inputs).features["session"].tolist() == [3, 0, 4, 0, 0, 2, 0]


def test_regression():
    losses, predictions, _, label, _ = evaluated("l2")
    assert {k: v.shape for k, v in predictions.items()} == {"y": (7,)}
    assert torch.allclose(losses["l2_loss"], ((predictions["y"] - label) ** 2).mean())


def test_rocket_evaluates_its_light_net_only():
    system = parse(PIPELINES["rocket_inner_classes_weights"])
    variables, inputs = random_variables(system), random_inputs(system)
    batch = system.batch(**inputs)
    broken = variables.clone()
    broken["params", "booster"] = map_leaves(lambda x: x * torch.nan, variables["params", "booster"])
    _, (losses, predictions, _) = system.losses(broken, batch, train=False)
    assert set(losses) == {"softmax_cross_entropy_light"}
    assert set(predictions) == {"logits_light", "probs_light", "probs1_light"}
    assert all(torch.isfinite(x).all() for x in (*losses.values(), *predictions.values()))


def test_rocket_distils_in_training():
    system = parse(PIPELINES["rocket_inner_classes_weights"])
    variables, inputs = random_variables(system), random_inputs(system)
    _, (losses, p, _) = system.losses(variables, system.batch(**inputs))
    weight = inputs["sample_weights"]["weight"] / inputs["sample_weights"]["weight"].mean()
    # light widths [6, 5], booster [6, 6]: layer 0 has its first match in layer 0
    names = {"softmax_cross_entropy_light", "softmax_cross_entropy_booster", "similarity_0_0", "hint_l2_loss"}
    assert set(losses) == names
    distance = ((p["light_0"] - p["booster_0"]) ** 2).sum(1)
    assert torch.allclose(losses["similarity_0_0"], (distance * weight).sum().sqrt())
    hint = ((p["logits_light"] - p["logits_booster"]) ** 2 * weight[:, None]).mean()
    assert torch.allclose(losses["hint_l2_loss"], hint)
    for name in ("rocket", "rocket_no_pairs"):
        plain = parse(PIPELINES[name])
        found = plain.losses(random_variables(plain), random_batch(plain))[1]
        assert set(found[0]) == {"binary_cross_entropy_light", "binary_cross_entropy_booster", "hint_l2_loss"}
        assert not [k for k in found[1] if "_0" in k]


def test_variational_dropout_penalizes_every_group_of_several_entries():
    system = parse(PIPELINES["variational_unread"])
    variables, batch = random_variables(system), random_batch(system)
    _, (losses, _, _) = system.losses(variables, batch, train=False)
    assert set(losses) == {"binary_cross_entropy", "all_feature_p_loss", "unread_feature_p_loss"}
    weights = system.export_weights(variables)
    for name, n in (("all", 4), ("unread", 3)):
        logits = weights[f"group_variational_dropouts.{name}.feature_p"]
        assert logits.shape == (n,)
        assert torch.allclose(losses[f"{name}_feature_p_loss"], 0.01 / 7 * (1 - torch.sigmoid(logits)).sum())
    assert weights["group_variational_dropouts.all.feature_dim_repeat"].tolist() == [4, 4, 4, 1]


def test_variational_dropout_scales_what_the_model_reads():
    """Rates of 0 leave the model as it is without them; a rate of 1 takes the field away."""
    plain, system = parse(PIPELINES["dcn"]), parse(PIPELINES["variational_unread"])
    weights = dict(system.export_weights(random_variables(system)))
    name = "group_variational_dropouts.all.feature_p"
    rest = {k: v for k, v in weights.items() if k in plain.export_weights(random_variables(plain))}
    inputs = random_inputs(system)
    kept = system.import_weights(weights | {name: torch.full((4,), -80.0).double()})
    same = plain.apply(plain.import_weights(rest), plain.batch(**inputs))[0]["logits"]
    assert torch.allclose(system.apply(kept, system.batch(**inputs))[0]["logits"], same)
    dropped = system.import_weights(weights | {name: torch.tensor([-80.0, -80, -80, 80]).double()})
    other = inputs | {"dense": inputs["dense"] | {"price": torch.rand(7, 1).double()}}
    a, b = (system.apply(dropped, system.batch(**x))[0]["logits"] for x in (inputs, other))
    assert torch.allclose(a, b)


def test_metrics_by_name():
    more = (
        "metrics { auc {} } metrics { grouped_auc { grouping_key: 'word' } } metrics { accuracy { threshold: 0.4 } } "
    )
    more += "metrics { normalized_entropy {} } metrics { xauc {} } metrics { auc { thresholds: 50 } }"
    rocket = "rocket_launching { booster_mlp { hidden_units: 5 } light_mlp { hidden_units: 3 } }"
    for model, suffix in ((DCN, ""), (rocket, "_light")):
        system = parse(pipeline(ALL, model, more=more))
        variables, batch = random_variables(system), random_batch(system, rows=40)
        predictions, _ = system.apply(variables, batch)
        found = system.metrics()
        kinds = ("auc", "grouped_auc", "accuracy", "normalized_entropy", "xauc")
        assert set(found) == {kind + suffix for kind in kinds}
        for name, metric in found.items():
            state = metric.update(metric.init(), *system.metric_inputs(name, predictions, batch))
            assert torch.isfinite(metric.compute(state))
    p, y = predictions["probs_light"], batch.features["label"]
    accuracy = found["accuracy_light"]
    state = accuracy.update(accuracy.init(), *system.metric_inputs("accuracy_light", predictions, batch))
    assert torch.allclose(accuracy.compute(state).double(), ((p > 0.4) == (y == 1)).double().mean())


def test_rows_of_every_way_to_say_them():
    more = {
        "v": ('vocab_list: ["p", "q"]', 4),
        "w": ('vocab_list: ["p", "q"] default_bucketize_value: 1', 2),
        "x": ('vocab_dict { key: "p" value: 2 } vocab_dict { key: "q" value: 6 }', 7),
        "y": ("hash_bucket_size: 3 num_buckets: 5", 3),
        "z": ("num_buckets: 5", 5),
    }
    text = "".join(
        f'feature_configs {{ id_feature {{ feature_name: "{n}" embedding_dim: 4 {how} }} }}\n'
        for n, (how, _) in more.items()
    )
    system = parse(pipeline(group("all", *more, "level"), DCN, features=FEATURES + text))
    rows = {t.name: t.rows for t in system.spec.tables}
    assert rows == {f"{n}_emb": r for n, (_, r) in more.items()} | {"level_emb": 4}


def test_tables_shared_private_wide_and_of_histories():
    names = set(parse(PIPELINES["suffixes"]).export_weights(random_variables(parse(PIPELINES["suffixes"]))))
    bags = "embedding_group.emb_impls.__BASE__.ebc.embedding_bags."
    tables = {n.removeprefix(bags).removesuffix(".weight") for n in names if n.startswith(bags)}
    assert tables == {"a_emb_mine", "shared_mine", "a_emb_wide", "shared_wide"}
    history = parse(PIPELINES["encoder_din"])
    steps = "embedding_group.seq_emb_impls.__BASE__.ec_dict."
    found = {n.theirs.removeprefix(steps) for n in history.names if n.theirs.startswith(steps)}
    # item and click__item have one embedding_name, cate and click__cate have not
    expected = {"4.embeddings.item.weight", "3.embeddings.cate_emb.weight", "3.embeddings.click__cate_emb.weight"}
    assert found == expected


def test_initial_laws_come_from_the_config():
    system = parse(PIPELINES["wide_and_deep_final"])
    weights = system.export_weights(system.init(key(3)))
    wide = [v for k, v in weights.items() if k.endswith("_wide.weight")]
    assert len(wide) == 2
    assert all(not w.any() and w.shape[1] == 2 for w in wide)
    frozen = pipeline(ALL, DCN, features=FEATURES.replace("num_buckets: 9", "num_buckets: 9 trainable: false"))
    assert parse(frozen).frozen_tables == ("a_emb",)


def test_stacked_parameters_answer_to_their_own_names():
    """The original's gradients of number embeddings have names that its state dict splits by feature."""
    system = parse(PIPELINES["deepfm_numbers"])
    weights = system.export_weights(random_variables(system))
    base = "embedding_group.emb_impls.__BASE__.dense_ec.dense_embs."
    auto = f"{base}autodis#4#3#0_800000#0_100000."
    for leaf in ("meta_emb", "proj_m", "proj_w"):
        parts = [weights[f"{auto}{leaf}_{name}.weight"] for name in ("auto", "auto2")]
        assert torch.equal(weights[auto + leaf], torch.stack(parts))
    lines = [weights[f"{base}mlp#4.proj_w_{name}.weight"] for name in ("line", "line2")]
    assert torch.equal(weights[f"{base}mlp#4.proj_w"], torch.stack(lines))
    assert lines[0].shape == (4,)
    assert auto + "meta_emb" in weights
    assert weights.get(auto + "meta_emb") is not None
    assert auto + "meta_emb" not in set(weights)  # a state dict has the parts only
    assert "nothing" not in weights
    assert weights.get("nothing") is None
    with pytest.raises(KeyError):
        _ = weights["nothing"]


def test_stacked_parameters_are_in_the_order_of_their_features():
    """Not of the names in the state dict, where ``x.weight`` comes after ``x-b.weight``."""
    text = "".join(
        f'feature_configs {{ raw_feature {{ feature_name: "{n}" embedding_dim: 4 mlp {{}} }} }}\n' for n in ("x-b", "x")
    )
    system = parse(pipeline(group("all", "a", "x-b", "x"), DCN, features=FEATURES + text))
    weights = system.export_weights(random_variables(system))
    name = "embedding_group.emb_impls.__BASE__.dense_ec.dense_embs.mlp#4.proj_w"
    assert torch.equal(weights[name], torch.stack([weights[f"{name}_{n}.weight"] for n in ("x", "x-b")]))


def test_features_that_no_group_lists_need_no_support():
    odd = 'feature_configs { id_feature { feature_name: "z" embedding_dim: 4 zch { zch_size: 9 } } }\n'
    system, plain = (parse(pipeline(ALL, DCN, features=FEATURES + more)) for more in (odd, ""))
    assert system.spec == plain.spec
    inputs = random_inputs(plain)
    z = torch.zeros(7).long(), torch.ones(7).long()
    batch = system.batch(**(inputs | {"sparse": inputs["sparse"] | {"z": z}}))
    assert "z" not in batch.ids


@pytest.mark.parametrize(
    ("law", "bound", "std"),
    [
        ("trunc_normal_,std=0.5,a=-0.5,b=0.5", 0.5, 0.27),
        ("xavier_uniform_,gain=2.0", 2 * math.sqrt(6 / 304), 2 * math.sqrt(2 / 304)),
        ("xavier_normal_,gain=2.0", None, 2 * math.sqrt(2 / 304)),
        ("kaiming_uniform_,a=1.0", math.sqrt(3 / 4), 0.5),
        ("kaiming_normal_,mode='fan_out',nonlinearity='relu'", None, math.sqrt(2 / 300)),
    ],
)
def test_initial_laws_of_torch(law, bound, std):
    """A table of 300 rows of 4: fan_in 4, fan_out 300."""
    text = (
        'feature_configs { id_feature { feature_name: "z" embedding_dim: 4 num_buckets: 300 '
        f'init_fn: "nn.init.{law}" }} }}\n'
    )
    system = parse(pipeline(group("all", "a", "z"), DCN, features=FEATURES + text))
    z = system.spec.table(system.init(key(0))["tables"], "z_emb")
    assert float(z.std()) == pytest.approx(std, rel=0.1)
    assert abs(float(z.mean())) < 0.2 * std
    assert bound is None or 0.9 * bound < float(z.abs().max()) <= bound


@pytest.mark.parametrize("name", ["dcn", "encoder_din_bn", "wide_and_deep_classes", "din"])
def test_everything_is_computed_in_the_dtype_of_the_variables(name):
    system = parse(PIPELINES[name])
    for dtype, other in ((torch.float32, torch.float64), (torch.float64, torch.float32)):
        variables = random_variables(system, dtype=dtype)
        batch = system.batch(**random_inputs(system, dtype=other))
        d, (losses, predictions, state) = grad(system.losses, has_aux=True)(variables, batch)
        assert {x.dtype for x in (*losses.values(), *predictions.values())} == {dtype}
        assert [x.dtype for x in leaves(d)] == [x.dtype for x in leaves(variables)]
        assert [x.dtype for x in leaves(state)] == [x.dtype for x in leaves(variables["state"])]


@pytest.mark.parametrize("name", [n for n in sorted(PIPELINES) if n.startswith("encoder_") or n.startswith("din")])
def test_nobody_has_a_history(name):
    system = parse(PIPELINES[name])
    inputs = random_inputs(system)
    none = torch.zeros(7).long()
    for feature, f in system.features.items():
        if f.sequence and f.sparse:
            inputs["sparse"][feature] = (none[:0], none[:0], none) if f.bags else (none[:0], none)
        elif f.sequence:
            inputs["sequence_dense"][feature] = (torch.zeros(0, f.width), none)
    batch, variables = system.batch(**inputs), random_variables(system)
    d = grad(lambda v: system.losses(v, batch)[0])(variables)
    assert all(torch.isfinite(x).all() for x in leaves(d))
    assert all(torch.isfinite(x).all() for x in system.apply(variables, batch)[0].values())


def test_histories_inherit_the_suffix_of_their_group():
    suffix = 'embedding_name_suffix: "mine" '
    own = HISTORY.replace('"h"', '"h" embedding_name_suffix: "own"')
    for history, expected in ((HISTORY, "mine"), (own, "own")):
        system = parse(pipeline(group("all", "a", more=suffix + history + ENCODERS["mean"]), TOWER))
        tables = {t.name.split(":")[-1] for t in system.spec.tables}
        assert tables == {"a_emb_mine", *(f"{t}_{expected}" for t in ("item", "cate_emb", "click__cate_emb"))}


def test_ratios_are_the_numbers_that_were_written():
    """0.7 of 10 is 7; the float32 nearest to 0.7 is less, and would make it 6."""
    block = "mask_net { mask_net_module { n_mask_blocks: 1 mask_block { hidden_dim: 3 reduction_ratio: 0.7 } "
    system = parse(pipeline(group("all", "a", "b", "pair"), f"{block} top_mlp {{ {MLP} }} }} }}"))
    weights = system.export_weights(system.init(key(0)))
    assert weights["mask_net_layer.mask_blocks.0.mask_generator.0.weight"].shape == (7, 10)


def test_a_tower_of_din_may_have_any_name():
    text = PIPELINES["din"].replace('"all"', '"interests"')
    system, usual = parse(text), parse(PIPELINES["din"])
    weights = usual.export_weights(random_variables(usual))
    renamed = {n.replace("towers.all.", "towers.interests."): x for n, x in weights.items()}
    assert renamed.keys() != weights.keys()
    outputs = [
        s.apply(s.import_weights(w), s.batch(**random_inputs(s)))[0] for s, w in ((usual, weights), (system, renamed))
    ]
    assert all(torch.equal(outputs[0][name], outputs[1][name]) for name in outputs[0])


SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    # 13 wide: the ratio of 1 wins over aggregation_dim, unless it is 0
    "masknet": {
        "mask_net_layer.mask_blocks.1.mask_generator.0.weight": (13, 13),
        "mask_net_layer.top_mlp.mlp.0.perceptron.0.weight": (6, 6),
    },
    # in a chain, blocks after the first gate the 3 outputs of the one before, by masks of the 13 inputs
    "masknet_serial": {
        "mask_net_layer.mask_blocks.0.mask_generator.2.weight": (13, 2),
        "mask_net_layer.mask_blocks.2.mask_generator.0.weight": (2, 13),
        "mask_net_layer.mask_blocks.2.mask_generator.2.weight": (3, 2),
        "mask_net_layer.top_mlp.mlp.0.perceptron.0.weight": (6, 3),
    },
    "dlrm_alone": {"final_mlp.mlp.0.perceptron.0.weight": (3, 3)},  # three pairs of three fields, and nothing else
    "dlrm": {"final_mlp.mlp.0.perceptron.0.weight": (3, 10 + 4 + 16)},
    "dcn_v2": {"cross.u_kernels.2.weight": (3, 13), "final.mlp.0.perceptron.0.weight": (6, 13)},
    "dcn_v2_all": {"cross.u_kernels.1.weight": (3, 5), "deep.mlp.0.perceptron.0.weight": (6, 13)},
    "xdeepfm": {"cin.cin_layers.1.weight": (3, 8, 1), "final.mlp.0.perceptron.0.weight": (6, 7 + 5)},
    "wukong_alone": {"_wukong_layers.0.fmb.weight": (3, 16), "_wukong_layers.0.lcb.weight": (3, 2)},
}


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_shapes_that_options_lead_to(name):
    weights = parse(PIPELINES[name]).export_weights(random_variables(parse(PIPELINES[name])))
    assert {k: tuple(weights[k].shape) for k in SHAPES[name]} == SHAPES[name]

"""Tables that belong to the sparse optimizer, and those that belong to nobody."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch

from funcrec.core.errors import ConfigError
from funcrec.embedding.lookup import gather
from funcrec.optim import rowwise

from .pipelines import FEATURES, random_variables
from .training_reference import CONSTANT, SGD, Reference, assert_same, batches, f32, run, system_of

LR = f32(0.1)
FROZEN = FEATURES.replace('feature_name: "a" ', 'feature_name: "a" trainable: false ', 1)
BETAS = (f32(0.8), f32(0.9))
MOMENTS = "lr: 0.1 beta1: 0.8 beta2: 0.9 weight_decay: 0.3"
RULES = {
    "sgd_optimizer { lr: 0.1 }": rowwise.sgd(LR),
    "adagrad_optimizer { lr: 0.1 initial_accumulator_value: 0.2 }": rowwise.adagrad(LR, initial_accumulator=f32(0.2)),
    "rowwise_adagrad_optimizer { lr: 0.1 }": rowwise.rowwise_adagrad(LR),
    "rowwise_adagrad_optimizer { lr: 0.1 weight_decay: 0.3 weight_decay_mode: L2 }": rowwise.rowwise_adagrad(
        LR, weight_decay=f32(0.3), weight_decay_mode="l2"
    ),
    "rowwise_adagrad_optimizer { lr: 0.1 weight_decay: 0.3 weight_decay_mode: DECOUPLE }": rowwise.rowwise_adagrad(
        LR, weight_decay=f32(0.3), weight_decay_mode="decouple"
    ),
    "lars_sgd_optimizer { lr: 0.1 weight_decay: 0.3 }": rowwise.lars_sgd(LR, momentum=f32(0.9), weight_decay=f32(0.3)),
    f"adam_optimizer {{ {MOMENTS} }}": rowwise.adam(LR, betas=BETAS, weight_decay=f32(0.3)),
    f"partial_rowwise_adam_optimizer {{ {MOMENTS} }}": rowwise.partial_rowwise_adam(
        LR, betas=BETAS, weight_decay=f32(0.3)
    ),
    f"lamb_optimizer {{ {MOMENTS} }}": rowwise.lamb(LR, betas=BETAS, weight_decay=f32(0.3)),
    f"partial_rowwise_lamb_optimizer {{ {MOMENTS} }}": rowwise.partial_rowwise_lamb(
        LR, betas=BETAS, weight_decay=f32(0.3)
    ),
}


def with_rule(
    system, variables, data: Iterable, rule: rowwise.RowRule, window: int = 1, rate=lambda k: LR
) -> Reference:
    """Tables alone: the dense gradient of each, and a step of the rule on the rows that occurred."""
    ref = Reference(system, variables)
    slots = {
        name: {k: torch.full((len(w), *s.shape), s.fill, dtype=w.dtype) for k, s in rule.slots(w.shape[1]).items()}
        for name, w in ref.tables.items()
    }
    for k, batch in enumerate(data):
        grads = torch.autograd.grad(ref.loss(batch) / window, list(ref.tables.values()))
        for (name, rows), g in zip(ref.touched(batch).items(), grads, strict=True):
            table, own = ref.tables[name].data, slots[name]
            new, changed = rule.update(table[rows], g[rows], {n: s[rows] for n, s in own.items()}, k + 1, rate(k))
            table[rows] = new
            for n, s in changed.items():
                own[n][rows] = s
    return ref


@pytest.mark.parametrize("path", ["rowwise", "dense"])
@pytest.mark.parametrize("text", RULES)
def test_every_rule_steps_on_the_rows_of_the_dense_gradient(text, path):
    system = system_of(f"sgd_optimizer {{ lr: 0 }} {CONSTANT}", f"{text} {CONSTANT}")
    variables, data = random_variables(system), batches(system, 4, rows=3)
    ref = with_rule(system, variables, data, RULES[text])
    assert_same(run(system, variables, data, plan="sharded", tables=path).variables, ref.variables)


@pytest.mark.parametrize("path", ["rowwise", "dense"])
def test_rows_step_in_every_batch_of_a_window_with_the_rate_of_its_first(path):
    system = system_of(
        f"sgd_optimizer {{ lr: 0 }} {CONSTANT}",
        "adagrad_optimizer { lr: 0.1 } exponential_decay_learning_rate { decay_size: 1 decay_factor: 0.5 }",
        'gradient_accumulation_steps: 2 grad_clipping { clipping_type: "value" max_gradient: 1e-6 }',
    )
    variables, data = random_variables(system), batches(system, 5)
    rate = lambda k: LR * 0.5 ** (k - k % 2)  # noqa: E731
    ref = with_rule(system, variables, data, rowwise.adagrad(LR), 2, rate)
    assert_same(run(system, variables, data, plan="sharded", tables=path).variables, ref.variables)


@pytest.mark.parametrize("path", ["rowwise", "dense"])
def test_gradient_clipping_clamps_pooled_gradients_of_sharded_tables_only(path):
    clip = 1e-3
    system = system_of(
        f"sgd_optimizer {{ lr: 0.1 momentum: 0 }} {CONSTANT}",
        f"sgd_optimizer {{ lr: 0.1 gradient_clipping: true max_gradient: {clip} }} {CONSTANT}",
    )
    variables, (batch,) = random_variables(system), batches(system, 1)
    ref = Reference(system, variables)
    held = ref.variables
    emb = gather(system.spec, held["tables"], batch.ids)[0]
    total = system.losses_from_embeddings(held["params"], emb, batch.features, held["state"])[0]
    pooled = emb["all"]
    (d,) = torch.autograd.grad(total, [pooled], retain_graph=True)
    assert (d.abs() > clip).any()
    tables = list(ref.tables.values())
    clamped = torch.autograd.grad(pooled, tables, d.clamp(-f32(clip), f32(clip)), retain_graph=True)
    weights = list(ref.weights.values())
    for w, g in zip(weights, torch.autograd.grad(total, weights, retain_graph=True), strict=True):
        w.data -= LR * g
    for plan, grads in (("sharded", clamped), ("data_parallel", torch.autograd.grad(pooled, tables, d))):
        start = [t.data.clone() for t in tables]
        for t, g in zip(tables, grads, strict=True):
            t.data -= LR * g
        assert_same(run(system, variables, [batch], plan=plan, tables=path).variables, ref.variables)
        for t, old in zip(tables, start, strict=True):
            t.data = old


@pytest.mark.parametrize("donate", [False, True])
@pytest.mark.parametrize("plan", ["sharded", "data_parallel"])
def test_frozen_tables_keep_every_bit_while_those_of_their_stack_move(plan, donate):
    text = f"adam_optimizer {{ lr: 0.1 weight_decay: 0.1 }} {CONSTANT}"
    system = system_of(text, text, features=FROZEN)
    assert system.frozen_tables == ("a_emb",)
    variables, data = random_variables(system), batches(system, 3)
    after = run(system, variables, data, plan=plan, donate=donate).variables["tables"]
    for table in system.spec.tables:
        same = torch.equal(system.spec.table(after, table.name), system.spec.table(variables["tables"], table.name))
        assert same == (table.name == "a_emb")
    assert len({system.spec.stack_of[t.name].name for t in system.spec.tables}) == 1
    first = run(system, variables, data[:1], plan=plan, donate=donate).variables["tables"]
    free = run(system_of(text, text), variables, data[:1], plan=plan, donate=donate).variables["tables"]
    for name in ("b_emb", "shared"):
        assert torch.equal(system.spec.table(first, name), system.spec.table(free, name))


@pytest.mark.parametrize(
    ("limits", "sharded"),
    [
        ('sharding_types: "table_wise" sharding_types: "row_wise"', True),
        ('sharding_types: "table_wise" sharding_types: "data_parallel"', False),
        ('compute_kernels: "fused"', True),
        ('compute_kernels: "dense"', False),
    ],
)
def test_constraints_of_the_config_decide_where_tables_may_be(limits, sharded):
    system = system_of(
        SGD, f"adagrad_optimizer {{ lr: 0.1 }} {CONSTANT}", f"global_embedding_constraints {{ {limits} }}"
    )
    variables, data = random_variables(system), batches(system, 2)
    expected = run(
        system_of(SGD, f"adagrad_optimizer {{ lr: 0.1 }} {CONSTANT}"),
        variables,
        data,
        plan="sharded" if sharded else "data_parallel",
    )
    assert_same(run(system, variables, data).variables, expected.variables, 0.0)


def test_a_feature_s_own_constraints_and_a_plan_by_table_come_first():
    own = FEATURES.replace(
        'feature_name: "a" ', 'feature_name: "a" embedding_constraints { sharding_types: "row_wise" } ', 1
    )
    sparse = f"adagrad_optimizer {{ lr: 0.1 }} {CONSTANT}"
    system, free = system_of(SGD, sparse, features=own), system_of(SGD, sparse)
    variables, data = random_variables(system), batches(system, 2)
    by_feature = run(system, variables, data).variables
    assert_same(by_feature, run(free, variables, data, plan={"a_emb": "sharded"}).variables, 0.0)
    # After one batch nothing but the table's own rule has spoken.
    one = run(system, variables, data[:1]).variables["tables"]
    plans = {p: run(free, variables, data[:1], plan=p).variables["tables"] for p in ("sharded", "data_parallel")}
    for table in (t.name for t in system.spec.tables):
        adagrad, sgd = (system.spec.table(t, table) for t in plans.values())
        assert torch.equal(system.spec.table(one, table), adagrad if table == "a_emb" else sgd)
        assert not torch.equal(adagrad, sgd)


def test_unknown_plans_and_paths_raise():
    system = system_of()
    for options in ({"plan": "one"}, {"tables": "sparse"}):
        with pytest.raises(ConfigError, match=r"init_training: (plan|tables): got"):
            system.init_training(random_variables(system), **options)
    with pytest.raises(ConfigError, match="init_training: plan of table 'x': expected names among"):
        system.init_training(random_variables(system), plan={"x": "sharded"})

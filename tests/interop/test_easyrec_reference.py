"""Options that no golden case has, against the original's mathematics written out with torch's modules and loops."""

import pytest
import torch
from torch.func import grad

from funcrec.interop.easyrec import parse

from .pipelines import ENCODERS, HISTORY, group, pipeline, random_inputs, random_variables
from .reference import OneTower

ACTIVATIONS = ["", "nn.ReLU", "nn.PReLU", "nn.Tanh", "Dice", "nn.LeakyReLU(negative_slope=0.2)"]
NORMS = ["", "use_bn: true", "use_ln: true", "bias: false"]
TOWER = "multi_tower {{ towers {{ input: 'all' mlp {{ hidden_units: [6, 5] {} }} }} final {{ hidden_units: 4 }} }}"
STEPS = 'sequence_groups {{ feature_names: "{}" }}'


def agree(text):
    system = parse(text)
    for seed in range(3):
        variables, inputs = random_variables(system, seed), random_inputs(system, 9, seed)
        batch = system.batch(**inputs)
        weights = dict(system.export_weights(variables))
        slow = OneTower(system, weights)
        evaluated = slow.logits(inputs, train=False).squeeze(1)
        assert torch.allclose(system.apply(variables, batch)[0]["logits"], evaluated, rtol=1e-9, atol=1e-11)

        logits = slow.logits(inputs, train=True).squeeze(1)
        labels = inputs["labels"]["label"].double()
        torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
        d, (_, predictions, state) = grad(system.losses, has_aux=True)(variables, batch)
        assert torch.allclose(predictions["logits"], logits, rtol=1e-9, atol=1e-11)
        exported = system.export_weights(d)
        for name, g in slow.gradients().items():
            assert torch.allclose(exported[name], g, rtol=1e-7, atol=1e-11), name
        after = system.export_weights(variables.replace(state=state))
        for name, x in slow.buffers().items():
            assert torch.allclose(after[name].double(), x.double(), rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_mlp_options(activation, norm):
    agree(
        pipeline(
            group("all", "a", "b", "c", "level", "price", "pair"), TOWER.format(f'{norm} activation: "{activation}"')
        )
    )


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_encoders(name):
    agree(pipeline(group("all", "a", "price", more=HISTORY + ENCODERS[name]), TOWER.format("")))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_attention_options(activation, norm):
    attn = f'attn_mlp {{ hidden_units: [4, 3] {norm} activation: "{activation}" }}'
    encoders = f"sequence_encoders {{ din_encoder {{ {attn} }} }} "
    encoders += f"sequence_encoders {{ multi_window_din_encoder {{ windows_len: [2, 1] {attn} }} }}"
    agree(pipeline(group("all", "a", more=HISTORY + encoders), TOWER.format("use_bn: true")))


@pytest.mark.parametrize("query", ["a", "b", "item"])
def test_histories_of_bags_and_numbers(query):
    keys = '" feature_names: "'.join([query, "tags"])
    agree(pipeline(group("all", "a", more=STEPS.format(keys) + ENCODERS["din"]), TOWER.format("")))
    keys = '" feature_names: "'.join(["price", "click__ts", "click__cate"])
    agree(pipeline(group("all", "a", more=STEPS.format(keys) + ENCODERS["din_bn"]), TOWER.format("")))


def test_shared_tables_add_their_gradients():
    agree(pipeline(group("all", "c", "d", "a", "item"), TOWER.format("")))

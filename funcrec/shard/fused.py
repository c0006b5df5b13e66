"""Row rules as the optimizers that FBGEMM fuses into the backward pass of its tables."""

from __future__ import annotations

from typing import Any

import torch

from funcrec.core.errors import ConfigError, fail
from funcrec.optim.rowwise import RowRule
from funcrec.optim.schedules import as_schedule

# By our name: FBGEMM's, and its name of each of our slots as torchrec spells them.
OPTIMIZERS = {
    "sgd": ("EXACT_SGD", {}),
    "adagrad": ("EXACT_ADAGRAD", {"sum": "momentum1"}),
    "rowwise_adagrad": ("EXACT_ROWWISE_ADAGRAD", {"sum": "momentum1"}),
    "adam": ("ADAM", {"mu": "momentum1", "nu": "exp_avg_sq"}),
    "partial_rowwise_adam": ("PARTIAL_ROWWISE_ADAM", {"mu": "momentum1", "nu": "exp_avg_sq"}),
}
ON_CPU = ("sgd", "adagrad", "rowwise_adagrad")
DECAY = {"none": "NONE", "l2": "L2", "decouple": "DECOUPLE"}


def check_rule(rule: RowRule, device: torch.device) -> None:
    """Raise unless FBGEMM takes the steps of this rule on such a device.

    Raises:
        ConfigError: a rule that FBGEMM does not have, not with these numbers, or not on a CPU.
    """
    known = [n for n in OPTIMIZERS if device.type != "cpu" or n in ON_CPU]
    if rule.name not in known or rule.constants is None:
        fix = "take one of these, or let the plan make the tables data-parallel: those are updated by our own rules"
        expected = f"one of {known} on {device.type}"
        fail(ConfigError, "sharded_store: rule", got=repr(rule.name), expected=expected, fix=fix)
    decay = float(rule.constants.get("weight_decay", 0.0))
    if decay and device.type == "cpu":
        fix = "leave the decay out, or make the tables data-parallel"
        seen = f"weight_decay {decay} on a CPU"
        fail(ConfigError, "sharded_store: rule", got=seen, expected="0: FBGEMM ignores some decays there", fix=fix)


def fused_params(rule: RowRule, checked: bool) -> dict[str, Any]:
    """torchrec's ``fused_params``; ``checked``: no id outside its table comes through, so that FBGEMM need not look."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode

    constants = dict(rule.constants or {})
    params: dict[str, Any] = {
        "optimizer": EmbOptimType[OPTIMIZERS[rule.name][0]],
        "learning_rate": as_schedule(rule.learning_rate)(0),
    }
    for ours, theirs in (("eps", "eps"), ("beta_1", "beta1"), ("beta_2", "beta2"), ("weight_decay", "weight_decay")):
        if ours in constants:
            params[theirs] = float(constants[ours])
    if "weight_decay_mode" in constants:
        params["weight_decay_mode"] = WeightDecayMode[DECAY[str(constants["weight_decay_mode"])]]
    if checked:
        params["bounds_check_mode"] = BoundsCheckMode.NONE
    if rule.max_gradient is not None:
        params |= {"gradient_clipping": True, "max_gradient": rule.max_gradient}
    return params


def fused_kernels(module: Any) -> list[Any]:
    """FBGEMM's modules inside a sharded collection: each has a learning rate and a count of steps."""
    # torchrec keeps its lookups in a plain list, so they are none of module.modules().
    parts = [part for lookup in module._lookups for part in lookup.modules()]
    return [part for part in parts if hasattr(part, "set_learning_rate") and hasattr(part, "iter_cpu")]


def set_progress(kernels: list[Any], steps: int, lr: float) -> None:
    """Steps taken so far, and the learning rate of the next one: FBGEMM reads both in the forward pass.

    It counts forward passes by itself, evaluations included, and begins at 0 after a restart: Adam's bias corrections
    would be those of another step.
    """
    for kernel in kernels:
        kernel.iter_cpu.fill_(steps)
        kernel.iter.fill_(steps)
        if kernel.get_learning_rate() != lr:
            kernel.set_learning_rate(lr)

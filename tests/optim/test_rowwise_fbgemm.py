"""Row rules against FBGEMM's fused optimizers on CPU: sgd, adagrad and row-wise adagrad are what it has there.

Its CPU kernel for row-wise Adagrad has a fast path, for a table of one feature, that ignores the weight decay it was
given; a table shared by two features takes the path that honours it. So the decays are compared on shared tables.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from funcrec.optim import rowwise
from tests.optim.test_rowwise import fresh_slots, step_rows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    tbe: Any = pytest.importorskip("fbgemm_gpu.split_table_batched_embeddings_ops_training")
    common: Any = pytest.importorskip("fbgemm_gpu.split_table_batched_embeddings_ops_common")

ROWS, DIM, LR, DECAY = 7, 4, 0.05, 0.3

CASES: dict[str, tuple[rowwise.RowRule, str, dict]] = {
    "sgd": (rowwise.sgd(LR), "EXACT_SGD", {}),
    "sgd_clipped": (
        rowwise.sgd(LR, max_gradient=0.5),
        "EXACT_SGD",
        {"gradient_clipping": True, "max_gradient": 0.5},
    ),
    "adagrad": (rowwise.adagrad(LR, eps=1e-3), "EXACT_ADAGRAD", {"eps": 1e-3}),
    "rowwise_adagrad": (rowwise.rowwise_adagrad(LR), "EXACT_ROWWISE_ADAGRAD", {"eps": 1e-8}),
    "rowwise_adagrad_l2": (
        rowwise.rowwise_adagrad(LR, weight_decay=DECAY, weight_decay_mode="l2"),
        "EXACT_ROWWISE_ADAGRAD",
        {"eps": 1e-8, "weight_decay": DECAY, "weight_decay_mode": tbe.WeightDecayMode.L2},
    ),
    "rowwise_adagrad_decouple": (
        rowwise.rowwise_adagrad(LR, weight_decay=DECAY, weight_decay_mode="decouple"),
        "EXACT_ROWWISE_ADAGRAD",
        {"eps": 1e-8, "weight_decay": DECAY, "weight_decay_mode": tbe.WeightDecayMode.DECOUPLE},
    ),
}


def fbgemm_bags(table: Tensor, optimizer: str, options: dict, features: int) -> Any:
    bags = tbe.SplitTableBatchedEmbeddingBagsCodegen(
        [(ROWS, DIM, common.EmbeddingLocation.HOST, tbe.ComputeDevice.CPU)],
        feature_table_map=[0] * features,
        optimizer=getattr(tbe.OptimType, optimizer),
        learning_rate=LR,
        **options,
    )
    bags.split_embedding_weights()[0].copy_(table)
    return bags


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "features"),
    [(name, f) for name in CASES for f in (1, 2) if f == 2 or "weight_decay" not in CASES[name][2]],
)
def test_several_steps_with_repeated_ids_are_fbgemms(name: str, features: int) -> None:
    rule, optimizer, options = CASES[name]
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(ROWS, DIM, generator=generator)
    bags = fbgemm_bags(table, optimizer, options, features)
    slots = fresh_slots(rule, ROWS, DIM, torch.float32)
    offsets = torch.tensor([0, 3, 3, 5, 8])  # four bags, of 3, 0, 2 and 3 ids
    bag_of = torch.tensor([0, 0, 0, 2, 2, 3, 3, 3])
    for t in range(1, 6):
        ids = torch.randint(0, ROWS - 1, (8,), generator=generator)  # the last row is never touched
        d_pooled = torch.randn(4, DIM, generator=generator)
        # bags come feature by feature, outputs example by example
        by_example = d_pooled.reshape(features, -1, DIM).transpose(0, 1).reshape(-1, features * DIM)
        bags(ids, offsets).backward(by_example)
        if rule.max_gradient is not None:
            d_pooled = d_pooled.clamp(-rule.max_gradient, rule.max_gradient)
        rows, inverse = ids.unique(return_inverse=True)
        g = torch.zeros(len(rows), DIM).index_add(0, inverse, d_pooled[bag_of])
        table, slots = step_rows(rule, table, slots, rows.tolist(), g, t, LR)
        torch.testing.assert_close(table, bags.split_embedding_weights()[0], rtol=1e-5, atol=1e-6)

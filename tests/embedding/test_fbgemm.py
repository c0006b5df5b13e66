"""The row-wise store against FBGEMM's exact optimizers on CPU: outputs, and tables after ten steps.

Two features share each table: for a table of one feature, FBGEMM's CPU kernel ignores the weight decay it was given.
"""

import warnings

import pytest
import torch

from funcrec.core.init import Uniform
from funcrec.core.ragged import Ragged
from funcrec.core.random import fold_in, key, normal, randint, uniform
from funcrec.embedding import EmbeddingGroup, EmbeddingSpec, Lookup, Table, rowwise_store
from funcrec.embedding.spec import Pooling
from funcrec.optim import rowwise

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
        WeightDecayMode,
    )

ROWS, DIM, BATCH = (50, 7, 200), 8, 33
TABLE_OF = (0, 0, 1, 1, 2, 2)  # by feature
CASES = {
    "sgd": (rowwise.sgd(0.05), {"optimizer": EmbOptimType.EXACT_SGD}),
    "adagrad": (rowwise.adagrad(0.05, eps=1e-8), {"optimizer": EmbOptimType.EXACT_ADAGRAD, "eps": 1e-8}),
    "rowwise_adagrad": (
        rowwise.rowwise_adagrad(0.05, eps=1e-8),
        {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "eps": 1e-8},
    ),
    "rowwise_adagrad_l2": (
        rowwise.rowwise_adagrad(0.05, eps=1e-8, weight_decay=0.1, weight_decay_mode="l2"),
        {
            "optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            "eps": 1e-8,
            "weight_decay": 0.1,
            "weight_decay_mode": WeightDecayMode.L2,
        },
    ),
    "rowwise_adagrad_decouple": (
        rowwise.rowwise_adagrad(0.05, eps=1e-8, weight_decay=0.1, weight_decay_mode="decouple"),
        {
            "optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            "eps": 1e-8,
            "weight_decay": 0.1,
            "weight_decay_mode": WeightDecayMode.DECOUPLE,
        },
    ),
}


def random_ids(k, weighted):
    ids = {}
    for f, table in enumerate(TABLE_OF):
        kf = fold_in(k, f)
        lengths = randint(fold_in(kf, "lengths"), BATCH, 0, 4)
        values = randint(fold_in(kf, "ids"), int(lengths.sum()), 0, ROWS[table])
        weights = uniform(fold_in(kf, "weights"), values.shape[0], 0.5, 2.0) if weighted else None
        ids[f"f{f}"] = Ragged.from_lengths(values, lengths, weights)
    return ids


@pytest.mark.parametrize("kind", ["sum", "weighted sum", "mean"])
@pytest.mark.parametrize("name", CASES)
def test_ten_steps_equal_fbgemm(name, kind):
    rule, options = CASES[name]
    pooling: Pooling = "mean" if kind == "mean" else "sum"
    spec = EmbeddingSpec(
        tables=tuple(Table(name=f"t{i}", rows=n, dim=DIM, init=Uniform(-0.5, 0.5)) for i, n in enumerate(ROWS)),
        groups=(
            EmbeddingGroup(
                name="g",
                lookups=tuple(Lookup(feature=f"f{i}", table=f"t{t}", pooling=pooling) for i, t in enumerate(TABLE_OF)),
            ),
        ),
    )
    store = rowwise_store(spec, rule)
    tables = store.init(key(0))
    theirs = SplitTableBatchedEmbeddingBagsCodegen(
        [(n, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU) for n in ROWS],
        feature_table_map=list(TABLE_OF),
        learning_rate=0.05,
        pooling_mode=PoolingMode.MEAN if kind == "mean" else PoolingMode.SUM,
        **options,
    )
    for i, w in enumerate(theirs.split_embedding_weights()):
        w.data.copy_(spec.table(tables["weights"], f"t{i}"))
    for step in range(10):
        k = fold_in(key(9), step)
        ids = random_ids(k, kind == "weighted sum")
        emb, touched = store.lookup(tables, ids)
        bags = [ids[f"f{i}"] for i in range(len(TABLE_OF))]
        flat = torch.cat([b.values for b in bags])
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat([b.lengths for b in bags]).cumsum(0)])
        weights = torch.cat([b.weights for b in bags]) if bags[0].weights is not None else None
        out = theirs(flat, offsets, weights)
        torch.testing.assert_close(emb["g"].flatten(1), out.detach(), rtol=1e-6, atol=1e-6)
        # no gradient is exactly zero: FBGEMM's CPU kernels do not decay a looked-up row whose gradient is
        d = normal(fold_in(k, "gradient"), emb["g"].shape)
        out.backward(d.flatten(1))
        tables = store.update(tables, touched, emb.replace({"g": d}))
    for i, w in enumerate(theirs.split_embedding_weights()):
        torch.testing.assert_close(spec.table(tables["weights"], f"t{i}"), w, rtol=1e-6, atol=1e-6)

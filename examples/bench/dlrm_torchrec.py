"""torchrec's own DLRM as ``sharded.py`` measures it: DistributedModelParallel and its pipelined train step."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.batch import Batch
from funcrec.shard import Plan, to_torchrec
from funcrec.shard.collections import quiet_torchrec


@dataclass
class Theirs:
    """Their pipeline, fed from a pool of batches in pinned memory."""

    model: Any
    pipeline: Any
    batches: Iterator[Any]

    def step(self) -> Tensor:
        """One step; its loss, on the device."""
        return self.pipeline.progress(self.batches)[0]


def endless(pool: list[Any]) -> Iterator[Any]:
    while True:
        yield from pool


def their_batch(batch: Batch, names: list[str], pin: bool) -> Any:
    """Ids as one KeyedJaggedTensor."""
    from torchrec.datasets.utils import Batch as TheirBatch
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    values = torch.cat([batch.ids[n] for n in names])  # type: ignore[misc]
    ids = KeyedJaggedTensor(
        keys=names, values=values, lengths=torch.ones(len(values), dtype=torch.int32), stride=len(batch)
    )
    made = TheirBatch(batch.features["dense"]["numbers"], ids, batch.features["label"].int())
    return made.pin_memory() if pin else made


def theirs(
    plan: Plan, sizes: Any, pool: list[Batch], lr: tuple[float, float], device: torch.device, group: dist.ProcessGroup
) -> Theirs:
    """The model with weights not set yet, and its pipeline; ``lr`` of tables and of the rest."""
    quiet_torchrec()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
        from torchrec.distributed import DistributedModelParallel, TrainPipelineSparseDist
        from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
        from torchrec.distributed.types import ShardingEnv
        from torchrec.models.dlrm import DLRM, DLRMTrain
        from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper

        tables = [p.table for p in plan.placements]
        names = [t.name for t in tables]
        configs = [
            EmbeddingBagConfig(name=t.name, num_embeddings=t.rows, embedding_dim=t.dim, feature_names=[t.name])
            for t in tables
        ]
        model = DLRMTrain(
            DLRM(
                EmbeddingBagCollection(configs, device=torch.device("meta")),
                dense_in_features=sizes.numbers,
                dense_arch_layer_sizes=list(sizes.bottom),
                over_arch_layer_sizes=[*sizes.top, 1],
                dense_device=device,
            )
        )
        fused = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": lr[0], "eps": 1e-8}
        sharder: Any = EmbeddingBagCollectionSharder(fused_params=fused)
        placed = DistributedModelParallel(
            model,
            env=ShardingEnv.from_process_group(group),
            device=device,
            plan=to_torchrec(plan, model),
            sharders=[sharder],
        )
        dense = {n: p for n, p in placed.named_parameters() if "embedding_bags" not in n}
        adam = KeyedOptimizerWrapper(dense, lambda p: torch.optim.Adam(p, lr=lr[1], foreach=True))
        optimizer = CombinedOptimizer([placed.fused_optimizer, adam])
        kwargs = {"execute_all_batches": False} if device.type == "cuda" else {}
        pipeline: Any = TrainPipelineSparseDist(placed, optimizer, device, **kwargs)
    batches = endless([their_batch(b, names, device.type == "cuda") for b in pool])
    return Theirs(placed, pipeline, batches)


def set_weights(their: Theirs, params: TensorDict, tables: dict[str, Tensor]) -> None:
    """Ours, and this rank's tables. Their top MLP reads (dense, products), ours (products, dense)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        held = their.model.state_dict()
    layers = [n[: -len("weight")] for n in held if "embedding_bags" not in n and n.endswith("weight")]
    dense = iter(sorted(layers))  # dense_arch, then over_arch: by the number of the layer
    bottom, top = ([v["linear"] for _, v in sorted(params[k].items())] for k in ("dense", "final"))
    with torch.no_grad():
        for layer in [*bottom, *top, params["head"]]:
            weight = layer["weight"]
            if layer is top[0]:
                dim = bottom[-1]["bias"].shape[0]
                weight = torch.cat([weight[:, -dim:], weight[:, :-dim]], dim=1)
            name = next(dense)
            held[f"{name}weight"].copy_(weight)
            held[f"{name}bias"].copy_(layer["bias"])
        for name, x in tables_of(their).items():
            x.copy_(tables[name])


def tables_of(their: Theirs) -> dict[str, Tensor]:
    """What this rank holds of each table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        held = their.model.state_dict()
    return {n.split(".")[-2]: s.tensor for n, x in held.items() if "embedding_bags" in n for s in x.local_shards()}

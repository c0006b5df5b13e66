"""The original's state-dict names of every leaf: inputs, tables, and the layers of each model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from funcrec.core.groups import Field, Group
from funcrec.embedding.spec import EmbeddingSpec
from funcrec.interop.easyrec.layer_names import Name, Path, encoder_names, leaves_of, linear_names, mlp_names
from funcrec.layers.autodis import AutoDis

_BASE = "embedding_group.emb_impls.__BASE__"
_SEQ_BASE = "embedding_group.seq_emb_impls.__BASE__"


def number_names(at: Path, field: Field) -> Iterator[Name]:
    """Numbers with a dense embedding: the features of one kind and size are one module there."""
    d, here = field.dim, (*at, field.name)
    if isinstance(field.number, AutoDis):
        a = field.number
        key = f"autodis#{d}#{a.num_channels}#{a.keep_prob:.6f}#{a.temperature:.6f}".replace(".", "_")
        for leaf, there in (("meta", "meta_emb"), ("proj_m", "proj_m"), ("proj_w", "proj_w")):
            yield Name(f"{_BASE}.dense_ec.dense_embs.{key}.{there}_{field.name}.weight", "params", (*here, leaf))
        return
    if field.width == 1:
        to = f"{_BASE}.dense_ec.dense_embs.mlp#{d}.proj_w_{field.name}.weight"
        yield Name(to, "params", (*here, "weight"), shape=lambda s: s[1:])
        return
    key = f"mlp#{d}#vdim#{field.width}#feature_name#{' ' * 12}{field.name}"  # the spaces are in the original's key
    yield Name(f"{_BASE}.dense_ec.dense_embs.{key}.proj_w_{field.name}.weight", "params", (*here, "weight"))


def input_names(top: str, groups: tuple[Group, ...], interests: str) -> Iterator[Name]:
    """What ``layers.inputs`` holds under ``params[top]``; the group called ``interests`` is the towers of DIN."""
    for group in groups:
        for i, encoded in enumerate(group.encoded):
            to = f"embedding_group._group_name_to_seq_encoders.{group.name}.{i}"
            to = f"din_towers.{i}" if group.name == interests else to
            yield from encoder_names((top, "encoders", group.name, str(i)), to, encoded.encoder)
        if group.variational:
            to = f"group_variational_dropouts.{group.name}"
            yield Name(f"{to}.feature_p", "params", (top, "variational", group.name, "logits"))
            widths = torch.tensor(list(group.dims.values()), dtype=torch.int32)
            yield Name(f"{to}.feature_dim_repeat", "constant", value=widths)
        for field in group.fields:
            if field.number is not None:
                yield from number_names((top, "numbers"), field)


def table_names(spec: EmbeddingSpec) -> Iterator[Name]:
    """Tables: pooled ones in one collection, those of histories in one collection a dim."""
    for table in spec.tables:
        if table.name.startswith("seq"):
            dim, _, shared = table.name.removeprefix("seq").partition(":")
            if shared and dim.isdigit():
                yield Name(f"{_SEQ_BASE}.ec_dict.{dim}.embeddings.{shared}.weight", "table", (table.name,))
                continue
        yield Name(f"{_BASE}.ebc.embedding_bags.{table.name}.weight", "table", (table.name,))


def model_names(kind: str, config: Any) -> Iterator[Name]:
    """The model's own layers; ``config`` is the config of the model here."""
    tower_mlps = [t for t in getattr(config, "towers", ()) if t.mlp]
    mlps, linears = {
        "dcn_v1": ({"deep": "deep", "final": "final_dnn"}, {"head": "output_linear"}),
        "dcn_v2": ({"backbone": "backbone", "deep": "deep", "final": "final"}, {"head": "output_mlp"}),
        "deepfm": ({"deep": "deep_mlp", "final": "final_mlp"}, {"head": "output_mlp"}),
        "dlrm": ({"dense": "dense_mlp", "final": "final_mlp"}, {"head": "output_mlp"}),
        "mask_net": (
            {"top": "mask_net_layer.top_mlp"},
            {"head": "output_linear", "mask_net.norm": "mask_net_layer.ln_emb"},
        ),
        "multi_tower": ({"final": "final_mlp"}, {"head": "output_mlp"}),
        "multi_tower_din": ({"final": "final_mlp"}, {"head": "output_mlp"}),
        "rocket_launching": (
            {"shared": "share_mlp", "booster.mlp": "booster_mlp", "light.mlp": "light_mlp"},
            {"booster.head": "booster_linear", "light.head": "light_linear"},
        ),
        "wide_and_deep": ({"deep": "deep_mlp", "final": "final_mlp"}, {"head": "output_mlp"}),
        "wukong": ({"dense": "dense_mlp", "final": "final_mlp"}, {"head": "output_mlp"}),
        "xdeepfm": ({"deep": "deep", "final": "final"}, {"head": "output_mlp"}),
    }[kind]
    for ours, theirs in mlps.items():
        first = ours.split(".")[0]
        found = next((getattr(config, a) for a in (f"{first}_mlp", first) if hasattr(config, a)), None)
        yield from mlp_names(tuple(ours.split(".")), theirs, found)
    for ours, theirs in linears.items():
        yield from linear_names(tuple(ours.split(".")), theirs)
    for tower in tower_mlps:
        yield from mlp_names(("towers", tower.group.name), f"towers.{tower.group.name}", tower.mlp)
    for i in range(getattr(config, "cross_num", 0)):
        at = ("cross", str(i))
        yield Name(f"cross.w.{i}.weight", "params", (*at, "weight"), shape=lambda s: (1, *s))
        yield Name(f"cross.b.{i}", "params", (*at, "bias"))
        yield from linear_names((*at, "u"), f"cross.u_kernels.{i}")
        yield from linear_names((*at, "v"), f"cross.v_kernels.{i}")
    for i in range(len(getattr(config, "cin_layer_size", ()))):
        yield Name(f"cin.cin_layers.{i}.weight", "params", ("cin", str(i), "weight"), lambda s: (s[0], s[1] * s[2], 1))
        yield Name(f"cin.cin_layers.{i}.bias", "params", ("cin", str(i), "bias"))
    for i in range(len(getattr(config, "blocks", ()))):
        block, to = ("mask_net", "blocks", str(i)), f"mask_net_layer.mask_blocks.{i}"
        parts = {"aggregate": "mask_generator.0", "project": "mask_generator.2", "hidden": "ffn.0", "norm": "ffn.1"}
        for ours, theirs in parts.items():
            yield from linear_names((*block, ours), f"{to}.{theirs}")
    for i, layer in enumerate(getattr(config, "layers", ())):
        own, to = ("layers", str(i)), f"_wukong_layers.{i}"
        yield from leaves_of((*own, "lcb"), f"{to}.lcb", "weight")
        yield from leaves_of((*own, "residual"), f"{to}.residual_projection", "weight")
        yield from leaves_of((*own, "fmb", "compress"), f"{to}.fmb", "weight")
        yield from linear_names((*own, "norm"), f"{to}.norm")
        yield from linear_names((*own, "fmb", "norm"), f"{to}.fmb.norm")
        yield from linear_names((*own, "fmb", "out"), f"{to}.fmb.feature_out_liner")
        yield from mlp_names((*own, "fmb", "mlp"), f"{to}.fmb.mlp", layer.mlp)

"""One batch from the original's features, checked by name against the config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from funcrec.core.batch import Batch
from funcrec.core.errors import DataError, fail
from funcrec.core.groups import Sequence
from funcrec.core.ragged import Nested, Ragged
from funcrec.interop.easyrec import batches
from funcrec.losses import check_labels

if TYPE_CHECKING:
    from funcrec.interop.easyrec.system import System

Entries = dict[str, "Tensor | dict[str, Tensor]"]


def _lengths(s: Sequence, ids: Mapping[str, Tensor | Ragged | Nested], raw: Mapping[str, batches.Jagged]) -> Tensor:
    """Steps of each row of a history, on which all its features agree."""
    found = {}
    for f in s.keys:
        x = raw[f.name][1] if f.dense else ids[f.name]
        found[f.name] = (x if isinstance(x, Tensor) else x.lengths).long()
    first = found[s.keys[0].name]
    odd = [n for n, x in found.items() if not torch.equal(x, first)]
    if odd:
        what = f"batch: {s.name.removeprefix('seq:')}: lengths of {odd} differ from those of {s.keys[0].name!r}"
        fail(DataError, what, fix="every feature of a history needs one value a step")
    return first


def _targets(
    system: System, labels: Mapping[str, Tensor] | Tensor | None, weights: Mapping[str, Tensor] | Tensor | None
) -> dict[str, Tensor]:
    """``label`` and ``weight``: of the first field that the config names, as in the original."""
    data, out = system.config.data_config, {}
    if labels is not None:
        out["label"] = batches.column("labels", labels, list(data.label_fields) or ["label"])
        if system.loss_kinds[0] in ("softmax_cross_entropy", "jrc_loss"):
            out["label"] = check_labels(out["label"], "classes", classes=system.n_classes)
    if weights is not None and (isinstance(weights, Tensor) or weights):
        if not data.sample_weight_fields:
            fix = "set data_config.sample_weight_fields, or leave the weights out"
            fail(DataError, "batch: sample_weights", got="a config without sample_weight_fields", fix=fix)
        out["weight"] = batches.column("sample_weights", weights, list(data.sample_weight_fields))
    return out


def build_batch(
    system: System,
    sparse: Mapping[str, batches.Jagged],
    dense: Mapping[str, Tensor],
    sequence_dense: Mapping[str, batches.Jagged],
    labels: Mapping[str, Tensor] | Tensor | None,
    sample_weights: Mapping[str, Tensor] | Tensor | None,
) -> Batch:
    """See :meth:`funcrec.interop.easyrec.System.batch`."""
    known, read = system.features, system.spec.features
    histories = tuple(dict.fromkeys(s for g in (*system.model.groups, *system.moving) for s in g.sequences))
    raw = {f.name for g in system.model.groups for f in g.dense}
    raw |= {f.name for s in histories for f in s.query if f.dense}
    steps = {f.name for s in histories for f in s.keys if f.dense}
    plain = {n for n, f in known.items() if not f.sparse and not f.sequence}
    jagged = {n for n, f in known.items() if not f.sparse and f.sequence}
    batches.named("sparse features", sparse, {n for n, f in known.items() if f.sparse}, set(read))
    batches.named("dense features", dense, plain, raw)
    batches.named("sequence_dense features", sequence_dense, jagged, steps)

    ids = {
        n: batches.history(n, x, known[n].bags) if known[n].sequence else batches.ragged(n, x)
        for n, x in sparse.items()
    }
    looked_up = {
        n: x if isinstance(x, Nested) or known[n].sequence else batches.one_a_row(n, x, single=known[n].single)
        for n, x in ids.items()
        if n in read
    }
    numbers = {n: batches.dense(n, dense[n], known[n].width) for n in sorted(raw)}
    padded = {n: batches.padded_steps(n, sequence_dense[n], known[n].width) for n in sorted(steps)}
    targets = _targets(system, labels, sample_weights)
    first = {
        n: batches.first_ids(x)
        for n, x in ids.items()
        if isinstance(x, Ragged) and n in {*system.groupings, system.session}
    }
    out: Entries = {
        "dense": numbers,
        "sequence": padded,
        "length": {s.name: _lengths(s, ids, sequence_dense) for s in histories},
        "grouping": {n: x for n, x in first.items() if n in system.groupings},
        **targets,
    }
    if system.session in first:
        out["session"] = first[system.session]
    rows = {n: len(x) for n, x in (ids | numbers | padded | targets).items()}
    return Batch(looked_up, batches.assemble({k: v for k, v in out.items() if not isinstance(v, dict) or v}, rows))

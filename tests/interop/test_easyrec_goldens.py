"""Agreement with what TorchEasyRec itself computed."""

import pytest
import torch
from torch.func import grad

from funcrec.interop.easyrec import parse

CASES = (
    "dcn_v1__three",
    "dcn_v2__full",
    "deepfm__autodis",
    "deepfm__fm_group",
    "dlrm__dense_sparse",
    "masknet__parallel",
    "multi_tower__encoders",
    "multi_tower__two",
    "multi_tower_din__one",
    "rocket_launching__cosine",
    "rocket_launching__euclid_weight",
    "wide_and_deep__plain",
    "wukong__dense",
    "xdeepfm__two",
)


class Case:
    def __init__(self, folder):
        from safetensors.torch import load_file

        self.entries = load_file(str(folder / "case.safetensors"))
        self.system = parse((folder / "pipeline.config").read_text())

    def part(self, prefix):
        return {k.removeprefix(prefix): v for k, v in self.entries.items() if k.startswith(prefix)}

    def jagged(self, prefix):
        names = {k.split("/")[0] for k in self.part(prefix)}
        return {n: (self.entries[f"{prefix}{n}/values"], self.entries[f"{prefix}{n}/lengths"]) for n in names}

    @property
    def batch(self):
        return self.system.batch(
            self.jagged("batch/sparse/"),
            self.part("batch/dense/"),
            self.jagged("batch/sequence_dense/"),
            labels=self.part("batch/label/"),
            sample_weights=self.part("batch/sample_weight/"),
        )


@pytest.fixture(scope="module", params=CASES)
def case(request, goldens):
    return Case(goldens / request.param)


def close(ours, theirs, rtol, floor=0.0):
    """Relative to the largest number of each tensor, or to ``floor`` where that is smaller."""
    assert set(ours) >= set(theirs)
    for name, x in theirs.items():
        scale = max(float(x.abs().max()), floor) if x.numel() else 0.0
        error = float((ours[name].double() - x.double()).abs().max()) if x.numel() else 0.0
        assert error <= rtol * scale, f"{name}: {error:.2e} beside {scale:.2e}"


def test_all_cases_are_listed(goldens):
    assert sorted(p.name for p in goldens.iterdir() if (p / "case.safetensors").is_file()) == sorted(CASES)


def test_weights_round_trip_exactly(case):
    weights = case.part("weight/")
    exported = case.system.export_weights(case.system.import_weights(weights))
    assert set(exported) == set(weights)
    for name, x in weights.items():
        assert torch.equal(exported[name], x)
        assert exported[name].dtype == x.dtype


def test_predictions(case):
    variables = case.system.import_weights(case.part("weight/"))
    for prefix, train in (("eval/", False), ("train/", True)):
        predictions, theirs = case.system.apply(variables, case.batch, train=train)[0], case.part(prefix)
        assert set(predictions) == set(theirs)
        close(predictions, theirs, 1e-9)


def test_losses_gradients_and_buffers(case):
    variables = case.system.import_weights(case.part("weight/"))
    d, (losses, _, state) = grad(case.system.losses, has_aux=True)(variables, case.batch)
    assert set(losses) == set(case.part("loss/"))
    close(losses, case.part("loss/"), 1e-6)
    close({"total": sum(losses.values())}, {"total": case.entries["loss_total"]}, 1e-6)

    theirs = case.part("grad/")
    # A gradient that is 0 in exact arithmetic is rounding noise on both sides: the others tell what is small.
    largest = max(float(x.abs().max()) for x in theirs.values())
    exported = case.system.export_weights(d)
    close({name: exported[name] for name in theirs}, theirs, 1e-6, floor=1e-9 * largest)
    after = case.system.export_weights(variables.replace(state=state))
    close(after, case.part("buffer_after/"), 1e-9)

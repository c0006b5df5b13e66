"""Ten training steps of TorchEasyRec itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from funcrec.interop.easyrec import parse


class Trace:
    """A config, the weights before and after, the batches and their losses."""

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file

        self.entries: dict[str, Tensor] = load_file(str(folder / "trace.safetensors"))
        self.system = parse((folder / "pipeline.config").read_text())

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.entries.items() if k.startswith(prefix)}

    def jagged(self, prefix: str) -> dict[str, tuple[Tensor, Tensor]]:
        names = {k.split("/")[0] for k in self.part(prefix)}
        return {n: (self.entries[f"{prefix}{n}/values"], self.entries[f"{prefix}{n}/lengths"]) for n in names}

    def batch(self, i: int):
        return self.system.batch(
            self.jagged(f"batch{i}/sparse/"),
            self.part(f"batch{i}/dense/"),
            self.jagged(f"batch{i}/sequence_dense/"),
            labels=self.part(f"batch{i}/label/"),
            sample_weights=self.part(f"batch{i}/sample_weight/"),
        )


@pytest.mark.parametrize("donate", [False, True])
@pytest.mark.parametrize("path", ["rowwise", "dense"])
def test_every_loss_and_the_weights_after_the_last_step(goldens, path, donate):
    folders = sorted(p for p in (goldens / "traces").iterdir() if p.is_dir())
    assert folders
    for folder in folders:
        trace = Trace(folder)
        training = trace.system.init_training(trace.system.import_weights(trace.part("weight/")), tables=path)
        for i, expected in enumerate(trace.entries["loss_trace"].tolist()):
            training, losses = trace.system.train_step(training, trace.batch(i), donate=donate)
            assert float(sum(losses.values())) == pytest.approx(expected, rel=1e-5), (folder.name, i)
        ours = trace.system.export_weights(training.variables)
        for name, x in trace.part("after/").items():
            assert (ours[name] - x).norm() <= 1e-4 * x.norm(), (folder.name, name)

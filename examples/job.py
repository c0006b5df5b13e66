"""Who trains, and what a run has left: the parts of a script that differ between one process and many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from experiment import Data, build, read
from options import Options

from funcrec.core.errors import CheckpointError, ConfigError, fail
from funcrec.core.random import key
from funcrec.data import Schema, Vocabularies
from funcrec.train import Run, Step, checkpoint


class Job(NamedTuple):
    """How this process builds its training step, and who it is among those that take it."""

    build: Callable[[Options, Data], Step]
    main: bool = True
    """Whether it is the one that reports and writes files."""
    device: torch.device | None = None
    """None: that of the options."""
    goes_on: bool = False
    """Whether a run that ``--out`` holds is continued without being asked to."""

    def say(self, message: str) -> None:
        if self.main:
            print(message, flush=True)

    def fresh(self, o: Options, step: Step) -> Run:
        """A run that has not begun."""
        device = ("cuda" if torch.cuda.is_available() else "cpu") if o.device == "auto" else o.device
        return Run(step.init(key(o.seed, self.device or device)))


def local_job() -> Job:
    return Job(lambda o, data: build(o, data.fields))


class Saved(NamedTuple):
    """A checkpoint of a run, the files it was asked to be looked at with, and the step that it was made by."""

    path: Path
    options: Options
    run: Run
    data: Data
    step: Step


def load_run(given: Options, job: Job | None = None) -> Saved:
    """The newest checkpoint of ``given.evaluate``, and the given files read by its schema and vocabularies."""
    job, root = job or local_job(), given.evaluate
    path = checkpoint.latest(root / "checkpoints" if (root / "checkpoints").is_dir() else root)
    meta = checkpoint.read_meta(path)
    saved = {k: tuple(v) if isinstance(v, list) else v for k, v in meta["about"]["options"].items()}
    saved |= {"valid_tail": 0.0, "test_tail": 0.0}  # cut from training rows, which are not read here
    o = replace(given, **saved)
    if o.data != "synthetic" and not (o.valid_path or o.test_path):
        fail(ConfigError, "--evaluate", got="no file", fix="name one with --test-path")
    vocabularies = Vocabularies.load(path)
    if vocabularies.fingerprint() != meta["about"]["vocabularies"]:
        fail(CheckpointError, f"checkpoint {path}: the vocabularies are of another run")
    data = read(o, (Schema.from_json(meta["about"]["schema"]), vocabularies))
    step = job.build(o, data)
    run, _ = checkpoint.load(path, into=job.fresh(o, step), replicas=step.replicas)
    return Saved(path, o, run, data, step)

"""Train states, the training step, fit and evaluate loops, checkpoints."""

from funcrec.train import checkpoint
from funcrec.train.fit import FitConfig, Report, Run, best_of, evaluate, fit, predict
from funcrec.train.state import TrainState
from funcrec.train.step import Step, make_step

__all__ = [
    "FitConfig",
    "Report",
    "Run",
    "Step",
    "TrainState",
    "best_of",
    "checkpoint",
    "evaluate",
    "fit",
    "make_step",
    "predict",
]

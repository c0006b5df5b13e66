"""Train states, the training step, fit and evaluate loops, checkpoints."""

from funcrec.train import checkpoint
from funcrec.train.ahead import ahead
from funcrec.train.evaluation import evaluate, part_of, predict
from funcrec.train.fit import FitConfig, Report, Run, best_of, fit
from funcrec.train.state import TrainState
from funcrec.train.step import Step, make_step

__all__ = [
    "FitConfig",
    "Report",
    "Run",
    "Step",
    "TrainState",
    "ahead",
    "best_of",
    "checkpoint",
    "evaluate",
    "fit",
    "make_step",
    "part_of",
    "predict",
]

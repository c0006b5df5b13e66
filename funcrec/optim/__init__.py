"""Optimizers as values over leaf lists, learning-rate schedules, and row rules for embedding tables."""

from funcrec.optim import rowwise, schedules
from funcrec.optim.adadelta import adadelta
from funcrec.optim.adagrad import adagrad
from funcrec.optim.adam import adam, adamw
from funcrec.optim.base import Optimizer, State, Transform, apply_updates, chain, set_scale
from funcrec.optim.clip import clip_by_global_norm, clip_by_value, clip_factor, global_norm
from funcrec.optim.decay import add_decayed_weights, decoupled_decay
from funcrec.optim.ema import Ema, ema
from funcrec.optim.groups import groups
from funcrec.optim.lamb import lamb
from funcrec.optim.plateau import Plateau, plateau
from funcrec.optim.rmsprop import rmsprop
from funcrec.optim.schedules import Schedule, as_schedule
from funcrec.optim.sgd import sgd

__all__ = [
    "Ema",
    "Optimizer",
    "Plateau",
    "Schedule",
    "State",
    "Transform",
    "adadelta",
    "adagrad",
    "adam",
    "adamw",
    "add_decayed_weights",
    "apply_updates",
    "as_schedule",
    "chain",
    "clip_by_global_norm",
    "clip_by_value",
    "clip_factor",
    "decoupled_decay",
    "ema",
    "global_norm",
    "groups",
    "lamb",
    "plateau",
    "rmsprop",
    "rowwise",
    "schedules",
    "set_scale",
    "sgd",
]

"""The fields of train configs; see :mod:`funcrec.interop.easyrec.schema` for the notation."""

from __future__ import annotations

_RATE = "lr float=0.002"
_CLIP = "gradient_clipping bool, max_gradient float=1.0"
_BETAS = "beta1 float=0.9, beta2 float=0.999, weight_decay float"
_FUSED_ADAM = f"{_RATE}, {_BETAS}, {_CLIP}"
_ADAM = f"{_RATE}, {_BETAS}, eps float=1e-8, amsgrad bool, fused bool"
_WARMUP = "min_learning_rate float, warmup_learning_rate float, warmup_size uint32, by_epoch bool"
_RATES = (
    "<learning_rate> constant_learning_rate ConstantLR, "
    "<learning_rate> exponential_decay_learning_rate ExponentialDecayLR, "
    "<learning_rate> manual_step_learning_rate ManualStepLR, "
    "<learning_rate> cosine_annealing_learning_rate CosineAnnealingLR, "
    "<learning_rate> cosine_annealing_warm_restarts_learning_rate CosineAnnealingWarmRestartsLR, "
    "<learning_rate> linear_decay_learning_rate LinearDecayLR"
)
_DENSE = (
    "<optimizer> sgd_optimizer SGDOptimizer, <optimizer> adagrad_optimizer AdagradOptimizer, "
    "<optimizer> adam_optimizer AdamOptimizer, <optimizer> adamw_optimizer AdamWOptimizer, "
    "<optimizer> adadelta_optimizer AdadeltaOptimizer, <optimizer> rmsprop_optimizer RMSpropOptimizer"
)

TRAINING = {
    "TrainConfig": "sparse_optimizer SparseOptimizer, dense_optimizer DenseOptimizer, num_steps uint32, "
    "num_epochs uint32, save_checkpoints_steps uint32=1000, fine_tune_checkpoint string, "
    "fine_tune_ckpt_param_map string, log_step_count_steps uint32=100, is_profiling bool, use_tensorboard bool=true, "
    "save_checkpoints_epochs uint32, tensorboard_summaries string*, cudnn_allow_tf32 bool=true, "
    "cuda_matmul_allow_tf32 bool, global_embedding_constraints ParameterConstraints, mixed_precision string, "
    "grad_scaler GradScaler, gradient_accumulation_steps uint32, grad_clipping GradClipping, "
    "keep_checkpoint_max uint32, save_checkpoints_timestamp_interval uint32, save_checkpoints_timestamps uint64*, "
    "save_checkpoints_timestamp_quorum float=0.5",
    "GradScaler": "init_scale float=65536, growth_factor float=2, backoff_factor float=0.5, growth_interval "
    "uint32=2000",
    "GradClipping": "clipping_type string=none, max_gradient float=1.0, norm_type float=2.0, "
    "enable_global_grad_clip bool",
    "SparseOptimizer": "<optimizer> sgd_optimizer FusedSGDOptimizer, "
    "<optimizer> adagrad_optimizer FusedAdagradOptimizer, <optimizer> adam_optimizer FusedAdamOptimizer, "
    "<optimizer> lars_sgd_optimizer FusedLarsSGDOptimizer, <optimizer> lamb_optimizer FusedLAMBOptimizer, "
    "<optimizer> partial_rowwise_lamb_optimizer FusedPartialRowWiseLAMBOptimizer, "
    "<optimizer> partial_rowwise_adam_optimizer FusedPartialRowWiseAdamOptimizer, "
    "<optimizer> rowwise_adagrad_optimizer FusedRowWiseAdagradOptimizer, "
    "<optimizer> adadelta_optimizer FusedAdadeltaOptimizer, <optimizer> rmsprop_optimizer FusedRMSpropOptimizer, "
    + _RATES,
    "DenseOptimizer": f"{_DENSE}, {_RATES}, part_optimizers PartOptimizer*, ema EMA",
    "PartOptimizer": f"{_DENSE}, regex_pattern string!, {_RATES}",
    "EMA": "decay float=0.999",
    "FusedSGDOptimizer": f"{_RATE}, {_CLIP}",
    "FusedAdagradOptimizer": f"{_RATE}, {_CLIP}, initial_accumulator_value float",
    "FusedAdamOptimizer": _FUSED_ADAM,
    "FusedLarsSGDOptimizer": f"{_RATE}, momentum float=0.9, weight_decay float, {_CLIP}",
    "FusedLAMBOptimizer": _FUSED_ADAM,
    "FusedPartialRowWiseLAMBOptimizer": _FUSED_ADAM,
    "FusedPartialRowWiseAdamOptimizer": _FUSED_ADAM,
    "FusedRowWiseAdagradOptimizer": f"{_RATE}, weight_decay float, weight_decay_mode WeightDecayMode, {_CLIP}",
    "FusedAdadeltaOptimizer": f"{_RATE}, rho float=0.95, eps float=1e-6, weight_decay float, {_CLIP}",
    "FusedRMSpropOptimizer": f"{_RATE}, alpha float=0.99, eps float=1e-8, weight_decay float, {_CLIP}",
    "SGDOptimizer": f"{_RATE}, momentum float=0.9, weight_decay float, dampening float, nesterov bool, fused bool",
    "AdagradOptimizer": f"{_RATE}, weight_decay float, initial_accumulator_value float, eps float=1e-10, fused bool",
    "AdamOptimizer": _ADAM,
    "AdamWOptimizer": _ADAM,
    "AdadeltaOptimizer": f"{_RATE}, rho float=0.95, eps float=1e-6, weight_decay float",
    "RMSpropOptimizer": f"{_RATE}, alpha float=0.99, eps float=1e-8, weight_decay float",
    "ConstantLR": "",
    "ExponentialDecayLR": f"decay_size uint32, decay_factor float=0.95, staircase bool=true, {_WARMUP}",
    "ManualStepLR": "schedule_sizes uint32*, learning_rates float*, warmup bool, by_epoch bool",
    "CosineAnnealingLR": f"T_max uint32, {_WARMUP}",
    "CosineAnnealingWarmRestartsLR": f"T_0 uint32, T_mult uint32=1, {_WARMUP}",
    "LinearDecayLR": f"total_size uint32, {_WARMUP}",
}

"""The fields of a pipeline config that concern a ranking model, with their types and defaults.

One entry a message; a field is ``name type``, with ``*`` for repeated, ``!`` for required, ``=default`` where it is not
the type's zero, and ``<oneof>`` before the members of a choice. Names, types and defaults are those of TorchEasyRec's
schema; the numbers of the fields are not, as the text format has no use for them.
"""

from __future__ import annotations

ENUMS = {
    "FeatureGroupType": "DEEP WIDE SEQUENCE JAGGED_SEQUENCE",
    "Kernel": "TRITON PYTORCH CUTLASS",
    "Similarity": "COSINE INNER_PRODUCT EUCLID",
    "WeightDecayMode": "NONE L2 DECOUPLE",
    "DatasetType": "UNKNOWN_DATASET OdpsDataset ParquetDataset CsvDataset OdpsDatasetV1 KafkaDataset",
    "FgMode": "UNKNOWN_MODE FG_NONE FG_NORMAL FG_DAG FG_BUCKETIZE",
    "ExportFormat": "TORCHSCRIPT HF",
    "FieldType": "INT32 INT64 STRING FLOAT DOUBLE "
    "ARRAY_INT32 ARRAY_INT64 ARRAY_STRING ARRAY_FLOAT ARRAY_DOUBLE "
    "ARRAY_ARRAY_INT32 ARRAY_ARRAY_INT64 ARRAY_ARRAY_STRING ARRAY_ARRAY_FLOAT ARRAY_ARRAY_DOUBLE "
    "MAP_STRING_INT32 MAP_STRING_INT64 MAP_STRING_STRING MAP_STRING_FLOAT MAP_STRING_DOUBLE "
    "MAP_INT64_INT32 MAP_INT64_INT64 MAP_INT64_STRING MAP_INT64_FLOAT MAP_INT64_DOUBLE "
    "MAP_INT32_INT32 MAP_INT32_INT64 MAP_INT32_STRING MAP_INT32_FLOAT MAP_INT32_DOUBLE",
}

PIPELINE = {
    "EasyRecConfig": "train_input_path string, eval_input_path string, model_dir string, train_config TrainConfig, "
    "eval_config EvalConfig, export_config ExportConfig, data_config DataConfig, feature_configs FeatureConfig*, "
    "model_config ModelConfig, item_input_path string",
    "EvalConfig": "num_steps uint32, log_step_count_steps uint32=10, evaluator_type string=latest",
    "ExportConfig": "exporter_type string=latest, best_exporter_metric string=auc, metric_larger_is_better bool=true, "
    "mixed_precision string, cudnn_allow_tf32 bool=true, cuda_matmul_allow_tf32 bool, export_format ExportFormat",
    "Field": "input_name string!, input_type FieldType",
    "DataConfig": "batch_size uint32=1024, dataset_type DatasetType=OdpsDataset, fg_encoded bool=true, "
    "fg_encoded_multival_sep string='\x03', label_fields string*, num_workers uint32=8, pin_memory bool=true, "
    "input_fields Field*, delimiter string=',', with_header bool, eval_batch_size uint32, drop_remainder bool, "
    "fg_threads uint32=1, is_orderby_partition bool, odps_data_quota_name string=pay-as-you-go, "
    "sample_mask_prob float, negative_sample_mask_prob float, force_base_data_group bool, "
    "sample_weight_fields string*, fg_mode FgMode=FG_NONE, shuffle bool, shuffle_buffer_size uint32=32, "
    "odps_data_compression string=LZ4_FRAME, sample_cost_field string, batch_cost_size uint64, "
    "input_fields_str string, in_order bool=true, min_batch_size uint32",
}

MODEL = {
    "ModelConfig": "feature_groups FeatureGroupConfig*, "
    "<model> dlrm DLRM, <model> deepfm DeepFM, <model> multi_tower MultiTower, "
    "<model> multi_tower_din MultiTowerDIN, <model> mask_net MaskNet, <model> wide_and_deep WideAndDeep, "
    "<model> dcn_v1 DCNV1, <model> dcn_v2 DCNV2, <model> xdeepfm XDeepFM, <model> wukong WuKong, "
    "<model> rocket_launching RocketLaunching, "
    "num_class uint32=1, losses LossConfig*, metrics MetricConfig*, train_metrics TrainMetricConfig*, "
    "variational_dropout VariationalDropout, kernel Kernel=PYTORCH, use_pareto_loss_weight bool",
    "FeatureGroupConfig": "group_name string!, feature_names string*, group_type FeatureGroupType, "
    "sequence_groups SeqGroupConfig*, sequence_encoders SeqEncoderConfig*, embedding_name_suffix string",
    "SeqGroupConfig": "group_name string, feature_names string*, embedding_name_suffix string",
    "MLP": "hidden_units uint32*, dropout_ratio float*, activation string=nn.ReLU, use_bn bool, bias bool=true, "
    "use_ln bool",
    "VariationalDropout": "regularization_lambda float=0.01, embedding_wise_variational_dropout bool",
    "WideAndDeep": "deep MLP, final MLP, wide_embedding_dim uint32=4, wide_init_fn string",
    "DeepFM": "deep MLP, final MLP, wide_embedding_dim uint32=4, wide_init_fn string",
    "Tower": "input string!, mlp MLP",
    "DINTower": "input string!, attn_mlp MLP",
    "MultiTower": "towers Tower*, final MLP",
    "MultiTowerDIN": "towers Tower*, din_towers DINTower*, final MLP",
    "DLRM": "dense_mlp MLP, arch_with_sparse bool=true, final MLP",
    "MaskNet": "mask_net_module MaskNetModule",
    "MaskNetModule": "n_mask_blocks uint32!, mask_block MaskBlock!, top_mlp MLP, use_parallel bool=true",
    "MaskBlock": "reduction_ratio float=1.0, aggregation_dim uint32, hidden_dim uint32!",
    "Cross": "cross_num uint32=3",
    "CrossV2": "cross_num uint32=3, low_rank uint32=32",
    "CIN": "cin_layer_size uint32*",
    "DCNV1": "cross Cross, deep MLP, final MLP",
    "DCNV2": "backbone MLP, cross CrossV2, deep MLP, final MLP",
    "XDeepFM": "cin CIN, deep MLP, final MLP, wide_embedding_dim uint32=16, wide_init_fn string",
    "WuKongLayer": "lcb_feature_num uint32!, fmb_feature_num uint32!, compressed_feature_num uint32=16, "
    "feature_num_mlp MLP",
    "WuKong": "dense_mlp MLP, wukong_layers WuKongLayer*, final MLP",
    "RocketLaunching": "share_mlp MLP, booster_mlp MLP, light_mlp MLP, l2_regularization float=0.0001, "
    "feature_based_distillation bool, feature_distillation_function Similarity",
    "SeqEncoderConfig": "<seq_module> din_encoder DINEncoder, <seq_module> simple_attention SimpleAttention, "
    "<seq_module> pooling_encoder PoolingEncoder, <seq_module> multi_window_din_encoder MultiWindowDINEncoder, "
    "<seq_module> self_attention_encoder SelfAttentionEncoder",
    "DINEncoder": "name string, input string, attn_mlp MLP, max_seq_length uint32",
    "SimpleAttention": "name string, input string, max_seq_length uint32",
    "PoolingEncoder": "name string, input string, pooling_type string=mean, max_seq_length uint32",
    "MultiWindowDINEncoder": "name string, input string, attn_mlp MLP, windows_len uint32*",
    "SelfAttentionEncoder": "name string, input string, multihead_attn_dim uint32=512, num_heads uint32=8, "
    "dropout float, max_seq_length uint32",
    "LossConfig": "<loss> binary_cross_entropy BinaryCrossEntropy, <loss> softmax_cross_entropy SoftmaxCrossEntropy, "
    "<loss> l2_loss L2Loss, <loss> jrc_loss JRCLoss, <loss> binary_focal_loss BinaryFocalLoss",
    "BinaryCrossEntropy": "label_smoothing float",
    "SoftmaxCrossEntropy": "label_smoothing float",
    "L2Loss": "",
    "JRCLoss": "session_name string!, alpha float=0.5",
    "BinaryFocalLoss": "gamma float=2.0, alpha float=0.5",
    "AUC": "thresholds uint32=200",
    "MulticlassAUC": "thresholds uint32=200, average string=macro",
    "RecallAtK": "top_k uint32=5",
    "MeanAbsoluteError": "",
    "MeanSquaredError": "",
    "Accuracy": "threshold float=0.5, top_k uint32=1",
    "GroupedAUC": "grouping_key string!",
    "XAUC": "sample_ratio float=0.001, max_pairs uint64, in_batch bool",
    "GroupedXAUC": "grouping_key string!, max_pairs_per_group uint64=100",
    "NormalizedEntropy": "eta float=1e-12",
    "MetricConfig": "<metric> auc AUC, <metric> multiclass_auc MulticlassAUC, <metric> recall_at_k RecallAtK, "
    "<metric> mean_absolute_error MeanAbsoluteError, <metric> mean_squared_error MeanSquaredError, "
    "<metric> accuracy Accuracy, <metric> grouped_auc GroupedAUC, <metric> xauc XAUC, "
    "<metric> grouped_xauc GroupedXAUC, <metric> normalized_entropy NormalizedEntropy",
    "TrainMetricConfig": "<metric> auc AUC, <metric> recall_at_k RecallAtK, "
    "<metric> mean_absolute_error MeanAbsoluteError, <metric> mean_squared_error MeanSquaredError, "
    "<metric> accuracy Accuracy, <metric> xauc XAUC, decay_rate float=0.9, decay_step uint32=100",
}

"""The flags that only `TrainingArguments` declares: types, defaults, which are rejected, and the roles of the others.

They are stored here, so that a command line is checked before transformers is imported, which takes seconds. Tests
compare everything here to the installed transformers.
"""

from dataclasses import dataclass, field
from typing import Literal

REJECTED = {
    "remove_unused_columns": "images are transformed on the fly, so the Trainer must keep their column",
    "load_best_model_at_end": "the best model on validation is always the one that is saved and scored",
    "do_train": "the verb says what to do: train, evaluate or predict",
    "do_eval": "the verb says what to do: train, evaluate or predict",
    "do_predict": "the verb says what to do: train, evaluate or predict",
    "eval_do_concat_batches": "metrics are computed over the complete split",
    "batch_eval_metrics": "metrics are computed over the complete split, from predicted classes and not from logits",
    "prediction_loss_only": "the best model is chosen by a metric",
    "include_for_metrics": "metrics are computed from predicted classes only",
    "eval_use_gather_object": "predictions are tensors",
    "label_names": "the label column is detected; name it with --label_column_name",
    "bf16": "use --precision bf16",
    "fp16": "use --precision fp16",
    "bf16_full_eval": "scores are computed in fp32, so that they match the saved model",
    "fp16_full_eval": "scores are computed in fp32, so that they match the saved model",
    "save_only_model": "such a checkpoint cannot be resumed",
    "ignore_data_skip": "a resumed run would see other images than an uninterrupted one",
    "restore_callback_states_from_checkpoint": "a resumed run always restores its complete state",
    "resume_from_checkpoint": "repeat the same command: it resumes from the newest complete checkpoint",
    "enable_jit_checkpoint": "SIGTERM already writes a checkpoint and exits with code 143",
    "logging_nan_inf_filter": "it would show a loss of 0 after training has diverged",
    "hub_token": "it would be stored in the run folder: log in with `hf auth login`, or set HF_TOKEN",
    "hub_always_push": "a checkpoint that is saved during a push is pushed after it",
    "gradient_checkpointing": "use --activation_checkpointing",
    "gradient_checkpointing_kwargs": "use --activation_checkpointing_kwargs",
    "train_sampling_strategy": "use --balanced_sampling, or the default random order",
    "length_column_name": "images have no length",
    "include_num_input_tokens_seen": "images have no tokens to count",
    "neftune_noise_alpha": "it is for language models",
    "use_cache": "it is for language models",
    "use_liger_kernel": "it is for language models",
    "liger_kernel_config": "it is for language models",
    "save_on_each_node": "the run folder is written once",
    "deepspeed": "its checkpoints cannot be loaded strictly",
    "fsdp": "its checkpoints cannot be loaded strictly",
    "fsdp_config": "its checkpoints cannot be loaded strictly",
    "parallelism_config": "its checkpoints cannot be loaded strictly",
    "accelerator_config": "it would change the batch size: use --global_batch_size",
    "local_rank": "the launcher sets it",
}
"""Name -> why the Trainer's value of it is fixed here, or what to use in its place."""

NEUTRAL = frozenset({
    "logging_strategy", "logging_first_step", "log_level", "log_on_each_node", "disable_tqdm",
    "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "skip_memory_metrics",
    "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_in_order",
    "dataloader_multiprocessing_context", "hub_revision",
})  # fmt: skip
"""Two calls of the same run may differ in these (`Flag.neutral`)."""

NOT_IN_RECIPE = frozenset({
    "bf16", "fp16", "use_cpu", "dataloader_persistent_workers", "disable_tqdm", "greater_is_better",
    "dataloader_pin_memory", "accelerator_config", "local_rank", "debug", "gradient_checkpointing",
    "run_name",
})  # fmt: skip
"""Derived from other flags, or without effect on what is learned (`Flag.recipe`)."""

LOOP_ONLY = frozenset({
    "lr_scheduler_kwargs", "optim_args", "optim_target_modules", "adam_beta1", "adam_beta2", "adam_epsilon",
    "gradient_accumulation_steps", "auto_find_batch_size", "activation_checkpointing",
    "activation_checkpointing_kwargs", "torch_compile_backend", "torch_compile_mode",
    "torch_empty_cache_steps", "logging_strategy", "logging_first_step", "eval_steps", "eval_delay", "eval_on_start",
    "save_steps", "data_seed", "dataloader_drop_last", "ddp_bucket_cap_mb", "ddp_broadcast_buffers",
    "ddp_static_graph", "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
    "greater_is_better", "eval_accumulation_steps", "average_tokens_across_devices",
})  # fmt: skip
"""Read by the training loop only, so that `--strategy head` ignores them (`Flag.strategies`)."""

SCHEDULES = (
    "cosine", "linear", "constant_with_warmup", "constant", "cosine_with_restarts", "polynomial", "inverse_sqrt",
    "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", "greedy",
)  # fmt: skip
"""The values of `--lr_scheduler_type`, the usual ones first."""

OPTIMIZERS = (
    "adamw_torch_fused", "adamw_torch", "sgd", "adafactor", "adagrad", "rmsprop", "adamw_torch_xla",
    "adamw_torch_npu_fused", "adamw_anyprecision", "adamw_torch_4bit", "adamw_torch_8bit", "ademamix",
    "adamw_bnb_8bit", "adamw_8bit", "ademamix_8bit", "lion_8bit", "lion_32bit", "paged_adamw_32bit",
    "paged_adamw_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit", "paged_lion_32bit", "paged_lion_8bit",
    "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit", "galore_adamw", "galore_adamw_8bit", "galore_adafactor",
    "galore_adamw_layerwise", "galore_adamw_8bit_layerwise", "galore_adafactor_layerwise", "lomo", "adalomo",
    "grokadamw", "schedule_free_radam", "schedule_free_adamw", "schedule_free_sgd", "apollo_adamw",
    "apollo_adamw_layerwise", "stable_adamw",
)  # fmt: skip
"""The values of `--optim`, the usual ones first."""

TRACKERS = (
    "tensorboard", "wandb", "mlflow", "trackio", "azure_ml", "comet_ml", "neptune", "codecarbon", "clearml",
    "dagshub", "flyte", "dvclive", "swanlab", "kubeflow",
)  # fmt: skip
"""The values of `--report_to` in addition to none and all, the usual ones first."""


@dataclass
class InheritedFlags:
    """The fields of `TrainingArguments` that `TrainingFlags` does not declare, as a command line reads them.

    A dict is read as text, because `TrainingArguments` parses its JSON.
    """

    lr_scheduler_kwargs: str | None = None
    optim_args: str | None = None
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    optim_target_modules: str | None = None
    gradient_accumulation_steps: int = 1
    average_tokens_across_devices: bool = True
    bf16: bool = False
    fp16: bool = False
    bf16_full_eval: bool = False
    fp16_full_eval: bool = False
    tf32: bool | None = None
    activation_checkpointing: bool | None = None
    activation_checkpointing_kwargs: str | None = None
    gradient_checkpointing: bool | None = None
    gradient_checkpointing_kwargs: str | None = None
    torch_compile_backend: str | None = None
    torch_compile_mode: str | None = None
    use_liger_kernel: bool = False
    liger_kernel_config: str | None = None
    use_cache: bool = False
    neftune_noise_alpha: float | None = None
    torch_empty_cache_steps: int | None = None
    auto_find_batch_size: bool = False
    logging_strategy: Literal["no", "steps", "epoch"] = "steps"
    logging_first_step: bool = False
    log_on_each_node: bool = True
    include_num_input_tokens_seen: str = "no"
    log_level: Literal["detail", "debug", "info", "warning", "error", "critical", "passive"] = "passive"
    disable_tqdm: bool | None = None
    run_name: str | None = None
    project: str = "huggingface"
    trackio_space_id: str | None = None
    trackio_bucket_id: str | None = None
    trackio_static_space_id: str | None = None
    eval_steps: float | None = None
    eval_delay: float = 0
    prediction_loss_only: bool = False
    eval_on_start: bool = False
    eval_do_concat_batches: bool = True
    eval_use_gather_object: bool = False
    eval_accumulation_steps: int | None = None
    include_for_metrics: list[str] = field(default_factory=list)
    batch_eval_metrics: bool = False
    save_only_model: bool = False
    save_steps: float = 500
    save_on_each_node: bool = False
    enable_jit_checkpoint: bool = False
    hub_token: str | None = None
    hub_always_push: bool = False
    hub_revision: str | None = None
    greater_is_better: bool | None = None
    ignore_data_skip: bool = False
    full_determinism: bool = False
    data_seed: int | None = None
    use_cpu: bool = False
    accelerator_config: str | None = None
    parallelism_config: str | None = None
    dataloader_drop_last: bool = False
    dataloader_pin_memory: bool = True
    dataloader_persistent_workers: bool = False
    dataloader_prefetch_factor: int | None = None
    dataloader_multiprocessing_context: Literal["fork", "spawn", "forkserver"] | None = None
    dataloader_in_order: bool = True
    label_names: list[str] | None = None
    train_sampling_strategy: Literal["random", "sequential", "group_by_length", "batch_rebalance"] = "random"
    length_column_name: str = "length"
    ddp_bucket_cap_mb: int | None = None
    ddp_broadcast_buffers: bool | None = None
    ddp_static_graph: bool | None = None
    ddp_backend: Literal["nccl", "gloo", "mpi", "xccl", "hccl", "cncl", "mccl"] | None = None
    fsdp: str | None = None
    fsdp_config: str | None = None
    deepspeed: str | None = None
    debug: list[Literal["underflow_overflow", "tpu_metrics_debug"]] = field(default_factory=list)
    skip_memory_metrics: bool = True
    do_predict: bool = False
    resume_from_checkpoint: str | None = None
    local_rank: int = -1

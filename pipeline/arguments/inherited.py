"""The flags that only `TrainingArguments` declares: which are rejected, and the roles of the others.

This module is torch-free. A test checks that every field of the installed `TrainingArguments` is supported or
rejected.
"""

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
    "hub_strategy": "the finished run is pushed once, from the files that were scored",
    "hub_always_push": "the finished run is pushed once, from the files that were scored",
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

"""Flags of the training loop: those of ours, and those of `TrainingArguments` that get our default or help. Torch-free.

`arguments.trainer.FineTuningArguments` joins them with all other fields of `TrainingArguments`.
"""

from dataclasses import dataclass
from typing import Literal

from pipeline.arguments.flags import flag
from pipeline.arguments.inherited import REJECTED


@dataclass
class TrainingFlags:
    """The flags of the training loop that `train --help` lists, and defaults that differ from the Trainer's."""

    output_dir: str | None = flag(
        None, "Run folder. Default: outputs/<recipe or dataset>-seed<seed>.", neutral=True, recipe="never"
    )
    num_train_epochs: float = flag(10.0, "Number of epochs.", recipe="always")
    max_steps: int = flag(-1, "Number of optimizer steps; overrides the number of epochs.")
    max_hours: float | None = flag(
        None, "Stop training after this many hours, then score and save.", minimum=0, open_minimum=True, neutral=True
    )
    learning_rate: float = flag(5e-5, "Peak learning rate.", recipe="always")
    lr_scheduler_type: str = flag("cosine", "Schedule: cosine, linear, constant_with_warmup, ...", recipe="always")
    warmup_steps: float = flag(
        0.1, "Warmup: a number of steps, or a fraction of all steps if below 1.", recipe="always"
    )
    optim: str = flag(
        "adamw_torch_fused", "Optimizer: adamw_torch_fused, sgd (with --optim_args momentum=0.9), ...", recipe="always"
    )
    weight_decay: float = flag(0.0, "Weight decay.", recipe="always")
    max_grad_norm: float = flag(1.0, "Gradient clipping: maximum norm.", short=False, recipe="always")
    per_device_train_batch_size: int = flag(16, "Images per forward pass on one device.", recipe="always")
    global_batch_size: int | None = flag(
        None, "Images per optimizer step over all devices; gradient accumulation is derived.", minimum=1
    )
    per_device_eval_batch_size: int = flag(64, "Images per forward pass when scoring.", short=False, neutral=True)
    label_smoothing_factor: float = flag(0.0, "Label smoothing.")
    eval_strategy: str = flag("epoch", "When to score validation: epoch or steps.", short=False)
    save_strategy: str = flag("epoch", "When to save: the value of --eval_strategy, or best.", short=False)
    save_total_limit: int | None = flag(
        1, "Number of checkpoints kept in addition to the best one.", short=False, neutral=True
    )
    early_stopping_patience: int | None = flag(
        None, "Stop after this many evaluations without a better metric.", minimum=1
    )
    metric_for_best_model: str | None = flag("accuracy", "Validation metric for the best checkpoint: accuracy or loss.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = flag(
        "auto",
        "Precision of training. auto: bf16 if the device supports it natively, else fp16 on a GPU and fp32 on a CPU.",
        recipe="always",
    )
    dataloader_num_workers: int = flag(
        -1, "Data workers per process. -1: chosen for the machine.", neutral=True, recipe="never"
    )
    seed: int = flag(42, "Random seed for the new head, data order and augmentation.", recipe="always")
    logging_steps: float = flag(
        0.02, "Log every this many steps, or this fraction of all steps if below 1.", short=False, neutral=True
    )
    log_level_replica: str = flag(
        "passive", "Log level of transformers in the processes other than the first.", short=False, neutral=True
    )
    report_to: list[str] = flag(
        factory=lambda: ["none"], help="Trackers: tensorboard, wandb, mlflow, trackio, ...", neutral=True
    )
    push_to_hub: bool = flag(False, "Push the finished run to --hub_model_id OWNER/NAME.", neutral=True, recipe="never")
    hub_model_id: str | None = flag(
        None, "Hub repository OWNER/NAME of --push_to_hub.", short=False, neutral=True, recipe="never"
    )
    hub_private_repo: bool = flag(False, "Create the Hub repository as private.", short=False, neutral=True)
    ddp_find_unused_parameters: bool = flag(
        False, "Search for unused parameters at every step. They are frozen before training.", short=False
    )
    remove_unused_columns: bool = flag(False, REJECTED["remove_unused_columns"], short=False)
    load_best_model_at_end: bool = flag(True, REJECTED["load_best_model_at_end"], short=False)
    logging_nan_inf_filter: bool = flag(False, REJECTED["logging_nan_inf_filter"], short=False)
    restore_callback_states_from_checkpoint: bool = flag(
        True, REJECTED["restore_callback_states_from_checkpoint"], short=False
    )
    do_train: bool = flag(True, REJECTED["do_train"], short=False)
    do_eval: bool = flag(True, REJECTED["do_eval"], short=False, recipe="never")

"""Flags of the training loop: those of ours, and those of `TrainingArguments` that get our default or help. Torch-free.

`arguments.trainer.FineTuningArguments` joins them with all other fields of `TrainingArguments`. `TrainerFlags` are the
same flags without torch.
"""

from dataclasses import dataclass
from typing import Literal

from pipeline.arguments.flags import LOOP, flag
from pipeline.arguments.inherited import OPTIMIZERS, REJECTED, SCHEDULES, TRACKERS, InheritedFlags


@dataclass
class TrainingFlags:
    """The flags of the training loop that `train --help` lists, and defaults that differ from the Trainer's."""

    output_dir: str | None = flag(
        None, "Run folder. Default: outputs/<recipe or dataset>-seed<seed>.", neutral=True, recipe="never"
    )
    num_train_epochs: float = flag(
        10.0, "Number of epochs.", minimum=0, open_minimum=True, recipe="always", strategies=LOOP
    )
    max_steps: int = flag(-1, "Number of optimizer steps; overrides the number of epochs.", minimum=-1, strategies=LOOP)
    max_hours: float | None = flag(
        None,
        "Stop training after this many hours, then score and save.",
        minimum=0,
        open_minimum=True,
        neutral=True,
        strategies=LOOP,
    )
    learning_rate: float = flag(5e-5, "Peak learning rate.", minimum=0, recipe="always", strategies=LOOP)
    lr_scheduler_type: str = flag(
        "cosine",
        "Schedule: cosine, linear, constant_with_warmup, ...",
        recipe="always",
        strategies=LOOP,
        choices=SCHEDULES,
    )
    warmup_steps: float = flag(
        0.1,
        "Warmup: a number of steps, or a fraction of all steps if below 1.",
        minimum=0,
        recipe="always",
        strategies=LOOP,
    )
    optim: str = flag(
        "adamw_torch_fused",
        "Optimizer: adamw_torch_fused, sgd (with --optim_args momentum=0.9), ...",
        recipe="always",
        strategies=LOOP,
        choices=OPTIMIZERS,
    )
    weight_decay: float = flag(0.0, "Weight decay.", minimum=0, recipe="always", strategies=LOOP)
    max_grad_norm: float = flag(
        1.0, "Gradient clipping: maximum norm.", minimum=0, short=False, recipe="always", strategies=LOOP
    )
    per_device_train_batch_size: int = flag(
        None,  # `FineTuningArguments` sets it on construction
        "Images per forward pass on one device. Default: 16; on a GPU with --global_batch_size, as many as fit.",
        minimum=1,
        recipe="always",
        strategies=LOOP,
    )
    global_batch_size: int | None = flag(
        None,
        "Images per optimizer step over all devices; gradient accumulation is derived.",
        minimum=1,
        strategies=LOOP,
    )
    per_device_eval_batch_size: int = flag(
        64, "Images per forward pass when scoring.", minimum=1, short=False, neutral=True
    )
    label_smoothing_factor: float = flag(0.0, "Label smoothing.", minimum=0, maximum=1, strategies=LOOP)
    eval_strategy: str = flag("epoch", "When to score validation: epoch or steps.", short=False, strategies=LOOP)
    save_strategy: str = flag(
        "epoch", "When to save: the value of --eval_strategy, or best.", short=False, strategies=LOOP
    )
    save_total_limit: int | None = flag(
        1,
        "Number of newest checkpoints kept in addition to the best one; two at least until training ends.",
        short=False,
        neutral=True,
        strategies=LOOP,
    )
    early_stopping_patience: int | None = flag(
        None, "Stop after this many evaluations without a better metric.", minimum=1, strategies=LOOP
    )
    metric_for_best_model: str | None = flag(
        "accuracy", "Validation metric for the best checkpoint: accuracy or loss.", strategies=LOOP
    )
    resume: Literal["same", "anyway"] = flag(
        "same",
        "How an unfinished run is continued. same: only with the settings, data and versions that it was started with. "
        "anyway: with those of this command; run.json lists the differences.",
        short=False,
        neutral=True,
        recipe="never",
    )
    on_nan: Literal["stop", "rewind"] = flag(
        "stop",
        "What to do if training diverges. rewind: go back to the last checkpoint and halve the learning rate, three "
        "times at most.",
        short=False,
        neutral=True,
        strategies=LOOP,
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = flag(
        "auto",
        "Precision of training. auto: bf16 if the device supports it natively, else fp16 on a GPU and fp32 on a CPU.",
        recipe="always",
    )
    dataloader_num_workers: int = flag(
        -1, "Data workers per process. -1: chosen for the machine.", neutral=True, recipe="never"
    )
    torch_compile: bool | None = flag(
        None,
        "Whether to compile the training step with torch.compile. auto: on one GPU, if the training is long enough.",
        short=False,
        strategies=LOOP,
    )
    seed: int = flag(42, "Random seed for the new head, data order and augmentation.", recipe="always")
    logging_steps: float = flag(
        0.02,
        "Log every this many steps, or this fraction of all steps if below 1.",
        short=False,
        neutral=True,
        strategies=LOOP,
    )
    log_level_replica: str = flag(
        "passive", "Log level of transformers in the processes other than the first.", short=False, neutral=True
    )
    report_to: list[str] = flag(
        factory=lambda: ["none"],
        help="Trackers: tensorboard, wandb, mlflow, trackio, ...",
        neutral=True,
        strategies=LOOP,
        choices=(*TRACKERS, "none", "all"),
    )
    report: Literal["yes", "no"] = flag(
        "yes",
        "Whether to write report.html, its pictures and figures/ into the run folder.",
        neutral=True,
        recipe="never",
    )
    uncertainty: Literal["yes", "no"] = flag(
        "yes",
        "Whether to fit calibration, prediction sets and a score of unlike images on validation, and store them.",
        short=False,
        neutral=True,
        recipe="never",
    )
    audit: Literal["yes", "no"] = flag(
        "yes",
        "Whether to look for wrong labels, duplicates and images that leak between splits, and list them in a table.",
        neutral=True,
        recipe="never",
    )
    coverage: float = flag(
        0.9,
        "Fraction of images whose prediction set is meant to contain the true class.",
        short=False,
        minimum=0,
        maximum=1,
        open_minimum=True,
        open_maximum=True,
    )
    abstain_precision: float = flag(
        0.95,
        "Fraction of answers meant to be correct; the model abstains below the confidence that this needs.",
        short=False,
        minimum=0,
        maximum=1,
        open_minimum=True,
        open_maximum=True,
    )
    push_to_hub: bool = flag(False, "Push the finished run to --hub_model_id OWNER/NAME.", neutral=True, recipe="never")
    hub_model_id: str | None = flag(
        None, "Hub repository OWNER/NAME of --push_to_hub.", short=False, neutral=True, recipe="never"
    )
    hub_strategy: Literal["end", "checkpoint"] = flag(
        "end",
        "What --push_to_hub pushes. end: the finished run. checkpoint: also the newest and the best checkpoint during "
        "training, so that the command can be repeated on another machine.",
        short=False,
        neutral=True,
        recipe="never",
        strategies=LOOP,
    )
    hub_private_repo: bool = flag(False, "Create the Hub repository as private.", short=False, neutral=True)
    ddp_find_unused_parameters: bool = flag(
        False,
        "Search for unused parameters at every step. They are frozen before training.",
        short=False,
        strategies=LOOP,
    )
    ddp_timeout: int = flag(
        300,
        "Seconds that processes wait for each other during training, before the job ends.",
        short=False,
        minimum=1,
        neutral=True,
        strategies=LOOP,
    )
    remove_unused_columns: bool = flag(False, REJECTED["remove_unused_columns"], short=False)
    load_best_model_at_end: bool = flag(True, REJECTED["load_best_model_at_end"], short=False)
    logging_nan_inf_filter: bool = flag(False, REJECTED["logging_nan_inf_filter"], short=False)
    restore_callback_states_from_checkpoint: bool = flag(
        True, REJECTED["restore_callback_states_from_checkpoint"], short=False
    )
    do_train: bool = flag(True, REJECTED["do_train"], short=False)
    do_eval: bool = flag(True, REJECTED["do_eval"], short=False, recipe="never")


@dataclass
class TrainerFlags(TrainingFlags, InheritedFlags):
    """All flags of `FineTuningArguments`, to check them before torch is imported."""

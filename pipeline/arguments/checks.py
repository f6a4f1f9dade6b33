"""Every check of flags against each other, in one place. Torch-free.

Ranges of single numbers are declared with the flags (`arguments.flags`). What depends on the model is checked by
`training.compatibility`, and what depends on the images by `data`.
"""

import dataclasses
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.arguments.flags import (
    choice_problems,
    default_of,
    flags_of,
    flags_that_need_all_images,
    plain,
    range_problems,
)
from pipeline.arguments.inherited import REJECTED
from pipeline.errors import is_secret, raise_problems


def require_valid(*groups: Any) -> None:
    """Raise one error with everything that is wrong with groups of flags, alone and in combination.

    Args:
        groups: Instances of the classes of `pipeline.arguments`, each class at most once.

    Raises:
        PipelineError: If a number is out of range, or flags cannot be combined.
    """
    raise_problems(find_problems(groups))


def find_problems(groups: Iterable[Any]) -> Iterator[str]:
    """Yield one line for each number out of range and each combination of flags that does not work."""
    found = list(groups)
    by_class = {parent.__name__: group for group in found for parent in type(group).__mro__}
    for group in found:
        yield from range_problems(group)
    for needed, check in _COMBINATIONS:
        if all(name in by_class for name in needed):
            yield from check(*(by_class[name] for name in needed))
    if (data := by_class.get("DataArguments")) is not None and data.streaming:
        yield from _streaming({type(group).__name__: group for group in found})


def trainer_problems(args: Any) -> Iterator[str]:
    """Yield what is wrong with the flags of the training loop.

    Args:
        args: `TrainerFlags`, or `FineTuningArguments` that are not resolved yet.
    """
    yield from _rejected(args)
    yield from choice_problems(args)
    if args.warmup_steps == 1:
        yield "--warmup_steps 1 is one single step: use 0.1 for a tenth of all steps"
    if args.metric_for_best_model not in ("accuracy", "loss"):
        yield f"--metric_for_best_model {args.metric_for_best_model} is unknown: use accuracy or loss"
    if args.eval_strategy not in ("epoch", "steps"):
        yield (
            f"--eval_strategy {args.eval_strategy} never scores validation, which chooses the best checkpoint: use "
            "epoch or steps"
        )
    if args.save_strategy not in (args.eval_strategy, "best"):
        yield (f"--save_strategy {args.save_strategy} does not match --eval_strategy: use {args.eval_strategy} or best")
    yield from _checkpoint_steps(args)
    for name in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            yield (
                f"a launch with {name} is not supported, because its checkpoints cannot be loaded strictly: use "
                "distributed_type MULTI_GPU"
            )
    if args.push_to_hub and not args.hub_model_id:
        yield "--push_to_hub needs a repository: add --hub_model_id OWNER/NAME"
    if args.hub_strategy != "end" and not args.push_to_hub:
        yield f"--hub_strategy {args.hub_strategy} pushes nothing without --push_to_hub: add it, with --hub_model_id"


def without_effect(groups: Iterable[Any], typed: Collection[str], *, forgive_neutral: bool = False) -> Iterator[str]:
    """Yield one line for each flag of the user that the strategy ignores.

    A flag with its default value is accepted if that turns something off, such as `--mixup 0`.

    Args:
        groups: As for `require_valid`.
        typed: The names of the flags that the user gave; those of a recipe may be ignored.
        forgive_neutral: Whether flags that do not shape the run may be ignored.
    """
    by_class = {parent.__name__: group for group in groups for parent in type(group).__mro__}
    if not by_class.keys() >= {"StrategyArguments", "TrainingFlags"}:
        return
    strategy = by_class["StrategyArguments"].strategy
    for group in {id(group): group for group in by_class.values()}.values():
        for field, role in zip(dataclasses.fields(group), flags_of(group).values(), strict=True):
            if field.name not in typed or not role.strategies or strategy in role.strategies:
                continue
            value = getattr(group, field.name)
            is_off = value == default_of(field) and (value in (None, "none", ["none"]) or not value)
            if not is_off and not (forgive_neutral and role.neutral):
                yield f"--{field.name} has no effect with --strategy {strategy}: remove it"
    if "gradient_accumulation_steps" in typed and (batch := by_class["TrainingFlags"].global_batch_size):
        yield f"--gradient_accumulation_steps is derived from --global_batch_size {batch}: remove one of them"


def _rejected(args: Any) -> Iterator[str]:
    """Yield one line for each flag whose value may not change."""
    fields = {f.name: f for f in dataclasses.fields(args)}
    for name, reason in REJECTED.items():
        value = getattr(args, name)
        if (plain(value) or None) != (plain(default_of(fields[name])) or None):
            yield f"--{name}{'' if is_secret(name) else f' {value}'} is not supported: {reason}"


def _checkpoint_steps(args: Any) -> Iterator[str]:
    """Yield a line if a checkpoint would be saved at a step that is not scored."""
    if not args.eval_strategy == args.save_strategy == "steps":
        return
    scored, saved = args.eval_steps or args.logging_steps, args.save_steps
    if scored <= 0:
        yield f"--eval_steps {scored:g} is out of range: use a value of more than 0"
    elif (scored < 1) != (saved < 1) or abs(saved / scored - round(saved / scored)) > 1e-6:
        yield f"--save_steps {saved:g} is not a multiple of --eval_steps {scored:g}: use --save_steps {scored:g}"


def _streaming(groups: Mapping[str, Any]) -> Iterator[str]:
    if found := flags_that_need_all_images(groups):
        needs = "needs" if len(found) == 1 else "need"
        yield (
            f"{', '.join(found)} {needs} all images before training and cannot be combined with --streaming: remove "
            "--streaming"
        )


def _blending(images: Any, trainer: Any) -> Iterator[str]:
    for name in ("mixup", "cutmix"):
        if getattr(images, name) and trainer.per_device_train_batch_size == 1:
            yield f"--{name} blends the images of a batch, which has only one: raise --per_device_train_batch_size"


def _cache(images: Any) -> Iterator[str]:
    if images.image_cache == "disk" and not images.image_cache_gb:
        yield "--image_cache disk needs disk space, and --image_cache_gb is 0: use --image_cache none"


def _balance(objective: Any) -> Iterator[str]:
    if objective.class_weights != "none" and objective.balanced_sampling:
        yield (
            "--class_weights balanced and --balanced_sampling both correct for unequal class sizes: remove one of them"
        )


def _refit_of_balanced(objective: Any, selection: Any) -> Iterator[str]:
    balanced = objective.class_weights == "balanced" or objective.balanced_sampling
    if balanced and selection.refit_head:
        yield "--refit_head ignores class balancing: add --refit_head False"


def _strategy(strategy: Any) -> Iterator[str]:
    if strategy.strategy != "lora" and strategy.keep_adapter:
        yield "--keep_adapter saves the adapter of LoRA: add --strategy lora, or remove --keep_adapter"
    if strategy.strategy != "full" and (strategy.layer_decay < 1 or strategy.freeze_blocks):
        yield (
            f"--strategy {strategy.strategy} does not train the blocks: remove --layer_decay and --freeze_blocks, or "
            "use --strategy full"
        )


def _selection_of_strategy(strategy: Any, selection: Any) -> Iterator[str]:
    if strategy.keep_adapter and selection.refit_head:
        yield "--keep_adapter saves the trained head, which --refit_head replaces: add --refit_head False"
    if strategy.strategy == "head" and selection.fixres:
        yield "--fixres corrects for random crops, and --strategy head trains on none: remove --fixres"


def _two_files(predict: Any) -> Iterator[str]:
    if predict.errors and predict.output and Path(predict.errors).absolute() == Path(predict.output).absolute():
        yield f"--errors {predict.errors} is also the --output: choose two files"


def _race_of_probes(_race: Any, strategy: Any) -> Iterator[str]:
    if strategy.strategy == "head":
        yield (
            "--strategy head is what race does with every backbone first: remove it, and pass --finalists 0 for linear "
            "probes only"
        )


def _race_is_not_pushed(_race: Any, trainer: Any) -> Iterator[str]:
    if trainer.push_to_hub:
        yield "--push_to_hub would push every finalist: remove it, and push the best one with the verb push"


def _race_is_not_streamed(_race: Any, data: Any) -> Iterator[str]:
    if data.streaming:
        yield "race reads all images before training and cannot be combined with --streaming: remove --streaming"


def _watch(predict: Any) -> Iterator[str]:
    if predict.watch is None:
        return
    if predict.output is None or not predict.output.endswith(".csv"):
        yield "--watch appends to a CSV file: add --output FILE.csv"
    if predict.errors is not None and not predict.errors.endswith(".csv"):
        yield f"--watch appends to --errors {predict.errors}: use the name of a CSV file"
    if predict.bad_images == "fail":
        yield "--watch waits for images that are still written, and --bad_images fail does not: remove --bad_images"


def _space(push: Any) -> Iterator[str]:
    if push.space and (push.create_pr or push.hub_revision != "main"):
        flag = "--create_pr" if push.create_pr else "--hub_revision"
        yield f"--space needs the files of the run in the branch main, which {flag} does not push to: remove {flag}"


_COMBINATIONS: tuple[tuple[tuple[str, ...], Any], ...] = (
    (("ImageArguments", "TrainingFlags"), _blending),
    (("ImageArguments",), _cache),
    (("ObjectiveArguments",), _balance),
    (("ObjectiveArguments", "SelectionArguments"), _refit_of_balanced),
    (("StrategyArguments",), _strategy),
    (("StrategyArguments", "SelectionArguments"), _selection_of_strategy),
    (("PredictArguments",), _two_files),
    (("RaceArguments", "StrategyArguments"), _race_of_probes),
    (("RaceArguments", "TrainingFlags"), _race_is_not_pushed),
    (("RaceArguments", "DataArguments"), _race_is_not_streamed),
    (("PredictArguments",), _watch),
    (("PushArguments",), _space),
)

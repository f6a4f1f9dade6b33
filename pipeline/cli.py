"""Verbs -> commands, resolved by name on demand; the only place that prints and sets exit codes."""

import argparse
import dataclasses
import importlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline import config, distributed
from pipeline.arguments import data, images, model, strategy, verbs
from pipeline.errors import PipelineError, Terminated, did_you_mean

EXIT_DONE, EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 2, 130, 143

# The flags of training that matter most, in the words of `train --help`. `--help-all` lists every one.
TRAINING_FLAGS = {
    "output_dir": "Run folder. Default: outputs/<recipe or data set>-seed<seed>.",
    "num_train_epochs": "Passes over the training images.",
    "max_steps": "Optimizer steps, in place of epochs.",
    "learning_rate": "Peak learning rate.",
    "lr_scheduler_type": "cosine, linear, constant_with_warmup, ...",
    "warmup_steps": "Warm-up: a count, or below 1 a share of all steps.",
    "optim": "adamw_torch_fused, sgd (with --optim_args momentum=0.9), ...",
    "weight_decay": "Weight decay.",
    "per_device_train_batch_size": "Images a step on one device.",
    "global_batch_size": "Images a step over all devices; accumulation is derived.",
    "label_smoothing_factor": "Label smoothing.",
    "early_stopping_patience": "Stop after so many evaluations without a better one.",
    "metric_for_best_model": "accuracy or loss, on validation: which checkpoint is kept.",
    "precision": "auto, fp32, bf16 or fp16: what training computes in.",
    "dataloader_num_workers": "Processes that prepare images; -1: the machine decides.",
    "seed": "Of the new head, the order of the images, and the augmentation.",
    "report_to": "Trackers: tensorboard, wandb, mlflow, trackio, ...",
    "push_to_hub": "Push the finished run to --hub_model_id OWNER/NAME.",
}


@dataclass(frozen=True)
class Verb:
    """What the command line says of a verb before its module is imported."""

    summary: str
    usage: str
    groups: Mapping[str, type]
    flags: Mapping[str, str] = field(default_factory=dict)


VERBS = {
    "train": Verb(
        "fine-tune, keep the best on validation, score it on test, save (and push, if asked)",
        "[--config RECIPE|FILE.yaml] [--flag value ...]",
        {
            "model": model.ModelArguments,
            "data": data.DataArguments,
            "images": images.AugmentationArguments,
            "adaptation": strategy.AdaptationArguments,
        },
        TRAINING_FLAGS,
    ),
    "evaluate": Verb(
        "score a run or a Hub model on any labelled images",
        "--model RUN|HUB_ID [--dataset_name DATA] [--split test] [--output_dir DIR]",
        {"model": verbs.EvaluateArguments, "data": data.DataArguments},
    ),
    "predict": Verb(
        "rank labels for images, folders and globs",
        "--model RUN|HUB_ID IMAGE|FOLDER|GLOB ... [--top_k 5] [--output FILE.csv|.jsonl|.parquet]",
        {"model": verbs.PredictArguments},
    ),
    "push": Verb(
        "upload a finished run to the Hub",
        "--model RUN --hub_model_id OWNER/NAME",
        {"model": verbs.PushArguments},
    ),
}


def entry_point() -> None:
    """Run the command line of this process and exit with its code."""
    code = main(sys.argv[1:])
    distributed.shut_down()
    sys.exit(code)


def main(words: Sequence[str]) -> int:
    """Run one command line. Of several processes the first speaks, and another only of what went wrong in it alone.

    Args:
        words: The words after the program's name.

    Returns:
        0 done; 2 the user can mend it; 130 interrupted; 143 terminated after a checkpoint. A bug raises.
    """
    try:
        answer = _answer(list(words))
        if distributed.is_main_process():
            print(answer)
    except distributed.DistributedError as error:
        _complain(f"error: {error}")
        return EXIT_USER_ERROR
    except PipelineError as error:
        print(
            f"error: {error}" if distributed.is_main_process() else f"rank {distributed.rank()}: error: {error}",
            file=sys.stderr,
        )
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        _complain("interrupted: a training goes on from its last checkpoint when its command is repeated")
        return EXIT_INTERRUPTED
    except Terminated as stop:
        _complain(f"terminated: {stop}")
        return EXIT_TERMINATED
    except BrokenPipeError:  # `... | head` closed the pipe: nothing to say and nowhere to say it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_DONE


def _complain(message: str) -> None:
    if distributed.is_main_process():
        print(message, file=sys.stderr)


def _answer(words: list[str]) -> str:
    """What the command line asked for, as the text that is printed at the end."""
    if not words or words[0] in ("-h", "--help", "help"):
        return _overview()
    name, *rest = words
    if name not in VERBS:
        raise PipelineError(f"no verb {name!r}{did_you_mean(name, VERBS)}; the verbs are: {', '.join(VERBS)}")
    if "-h" in rest or "--help" in rest:
        return _verb_help(name)
    distributed.require_all_started()
    with distributed.fail_together():
        line = config.read_command_line(name, rest)
    _set_up_libraries()
    command = importlib.import_module(f"pipeline.workflows.{name}")
    if "--help-all" in rest:
        return config.full_help(line, command.ARGUMENTS)
    answer: str = command.run(line)
    return answer


def _overview() -> str:
    verbs = "\n".join(f"  {name:<9} {verb.summary}" for name, verb in VERBS.items())
    return f"usage: vit-pipeline VERB [--flag value ...]\n\n{verbs}\n\n`vit-pipeline VERB --help` lists its flags."


def _verb_help(name: str) -> str:
    verb = VERBS[name]
    parser = argparse.ArgumentParser(
        prog=f"vit-pipeline {name}",
        usage=f"%(prog)s {verb.usage}",
        add_help=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=116),
    )
    parser.description = f"{verb.summary[0].upper()}{verb.summary[1:]}."
    for title, group_class in verb.groups.items():
        group = parser.add_argument_group(title)
        for f in dataclasses.fields(group_class):
            default = f" [{f.default}]" if f.default not in (None, False) else ""
            group.add_argument(f"--{f.name}", metavar="", help=f.metadata["help"] + default)
    if verb.flags:
        training = parser.add_argument_group("training")
        for flag, text in verb.flags.items():
            training.add_argument(f"--{flag}", metavar="", help=text)
        recipes = "\n".join(f"  {recipe:<28} {text}" for recipe, text in sorted(config.shipped_recipes().items()))
        parser.epilog = f"recipes for --config:\n{recipes}\n\n--help-all lists every flag."
    return parser.format_help()


def _set_up_libraries() -> None:
    """Our own lines go to the terminal; of the libraries only what is an error. One allocator for all of them."""
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # its own would keep freed memory to itself
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging as transformers_logging  # takes a second: not for `--help`

    transformers_logging.disable_progress_bar()  # of loading and writing weights; downloads keep theirs
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("pipeline").setLevel(logging.INFO if distributed.is_main_process() else logging.ERROR)

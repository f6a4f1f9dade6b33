"""Verbs -> workflows, imported by name on demand; the only place that prints and sets exit codes."""

import argparse
import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import fields
from types import TracebackType

from pipeline import config, distributed, ending, signals, watchdog
from pipeline.arguments.flags import flags_of
from pipeline.config.verbs import VERBS
from pipeline.errors import (
    FindingsError,
    PipelineError,
    Terminated,
    did_you_mean,
    explain_outside_error,
    presentable,
)
from pipeline.imports import fast_imports

EXIT_DONE, EXIT_USER_ERROR, EXIT_SIGNAL = 0, 2, 128


class _WithoutSecrets(logging.Formatter):
    """Shows the text of a log line without tokens, passwords and control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of the line."""
        return presentable(super().format(record))


def entry_point() -> None:
    """Run the command line of this process and exit with its code."""
    sys.excepthook = _show_bug
    code = main(sys.argv[1:])
    distributed.shut_down()
    signals.ignore_while_ending()
    ending.leave(code)


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show the traceback of a bug without secrets."""
    print(presentable("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, end="")


def main(words: Sequence[str]) -> int:
    """Run one command line. With several processes the main process prints; another one only reports its own errors.

    Errors of the system and of the Hub that a library raises are shown as one line; all others are bugs, and raised.

    Args:
        words: The words after the name of the program.

    Returns:
        0: done. 2: the user can fix it. 128 + number: stopped by a signal. A bug raises.
    """
    try:
        answer = _answer(list(words))
        if distributed.is_main_process():
            print(presentable(answer))
    except distributed.DistributedError as error:
        _report(f"error: {error}")
        return EXIT_USER_ERROR
    except PipelineError as error:
        return _report_own_error(str(error), is_result=isinstance(error, FindingsError))
    except KeyboardInterrupt as stop:
        _report(str(stop) or f"interrupted: {signals.RESUME}")
        return EXIT_SIGNAL + getattr(stop, "number", signal.SIGINT)
    except Terminated as stop:
        _report(f"stopped by {signal.Signals(stop.number).name}: {stop}")
        return EXIT_SIGNAL + stop.number
    except BrokenPipeError:  # `... | head` closed the pipe, so there is nowhere to print to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if (explained := explain_outside_error(error)) is None:
            raise
        return _report_own_error(explained)
    return EXIT_DONE


def _report_own_error(text: str, *, is_result: bool = False) -> int:
    if is_result and distributed.is_main_process():
        print(presentable(text))
        return EXIT_USER_ERROR
    prefix = "" if distributed.is_main_process() else f"rank {distributed.rank()}: "
    print(f"{prefix}error: {presentable(text)}", file=sys.stderr)
    return EXIT_USER_ERROR


def _report(message: str) -> None:
    if distributed.is_main_process():
        print(message, file=sys.stderr)


def _answer(words: list[str]) -> str:
    """Do what the command line asks for, and return the text to print at the end."""
    if not words or words[0] in ("-h", "--help", "help"):
        return _overview()
    name, *rest = words
    if name not in VERBS:
        raise PipelineError(f"unknown verb {name!r}{did_you_mean(name, VERBS)}: use {', '.join(VERBS)}")
    if "-h" in rest or "--help" in rest:
        return _verb_help(name)
    distributed.require_all_started()
    if "--help-all" in rest:
        return _verb_help(name, importlib.import_module(f"pipeline.workflows.{name}").ARGUMENTS)
    with watchdog.must_progress(), watchdog.reading("the paths in the command"), distributed.fail_together():
        line = config.read_command_line(name, rest)
        config.check(line)
    with fast_imports():
        _set_up_libraries()
        workflow = importlib.import_module(f"pipeline.workflows.{name}")
    with signals.raised():
        answer: str = workflow.run(line)
    return answer


def _overview() -> str:
    verbs = "\n".join(f"  {name:<9} {verb.summary}" for name, verb in VERBS.items())
    return f"usage: vit-pipeline VERB [--flag value ...]\n\n{verbs}\n\n`vit-pipeline VERB --help` lists its flags."


def _verb_help(name: str, classes: Sequence[type] = ()) -> str:
    """Return the help of a verb: the flags of the short help, or all flags of the given dataclasses."""
    verb = VERBS[name]
    parser = argparse.ArgumentParser(
        prog=f"vit-pipeline {name}",
        usage=f"%(prog)s {verb.usage}",
        add_help=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=116),
    )
    parser.description = f"{verb.summary[0].upper()}{verb.summary[1:]}."
    for title, short_class in verb.groups.items():
        group_class = next((c for c in classes if issubclass(c, short_class)), short_class)
        group = parser.add_argument_group(title)
        for field, role in zip(fields(group_class), flags_of(group_class).values(), strict=True):
            if role.short or classes:
                has_default = isinstance(field.default, str | int | float) and field.default not in (False, -1, 0.0)
                text = " ".join(field.metadata.get("help", "").split()).replace("%", "%%")
                text += f" [{getattr(field.default, 'value', field.default)}]" if has_default else ""
                group.add_argument(f"--{field.name}", metavar="", help=text)
    if name == "train":
        recipes = "\n".join(f"  {recipe:<28} {text}" for recipe, text in sorted(config.shipped_recipes().items()))
        parser.epilog = f"recipes for --config:\n{recipes}\n\n--help-all lists every flag."
    return parser.format_help()


def _set_up_libraries() -> None:
    """Show our own log lines and only the errors of the libraries; make Arrow share the allocator of the others."""
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # its own allocator would keep freed memory
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging as transformers_logging  # takes a second to import, so not for --help

    transformers_logging.disable_progress_bar()  # for loading and writing weights; downloads keep theirs
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_WithoutSecrets())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("pipeline").setLevel(logging.INFO if distributed.is_main_process() else logging.ERROR)

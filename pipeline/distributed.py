"""Ranks: which of them prints and writes, and what all of them must agree on.

A launcher (`accelerate launch`, `torchrun`) starts the processes and sets their ranks in the environment. With one
process every function here does nothing. Torch is imported only where a collective needs it.
"""

import contextlib
import datetime as dt
import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import datasets
import psutil
from datasets.utils.tqdm import are_progress_bars_disabled

from pipeline.errors import PipelineError

T = TypeVar("T")

_TIMEOUT = dt.timedelta(days=1)  # of those who wait while another downloads or draws; a dead one ends the job at once


class DistributedError(PipelineError):
    """An error that every process raises alike, so that one of them is enough to say it."""


def rank() -> int:
    """This process's number in the job, 0 for the one that speaks and writes."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes the job has, over all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """How many of them share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is the process that speaks and writes."""
    return rank() == 0


def is_local_main_process() -> bool:
    """Whether this is the first process of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def require_all_started() -> None:
    """Refuse a job of one where `accelerate launch` was asked for more, and started one without a word.

    It does so with `--cpu`, and with a launch file whose `distributed_type` is not that of several processes.

    Raises:
        PipelineError: Naming both numbers.
    """
    if world_size() > 1:
        return
    try:
        asked = requested_processes(" ".join(psutil.Process(os.getppid()).cmdline()))
    except psutil.Error:
        return
    if asked and asked > 1:
        raise PipelineError(
            f"accelerate launch was asked for {asked} processes and started 1: add --multi_gpu (on CPUs too, with "
            "ACCELERATE_USE_CPU=true in front), or a launch file with distributed_type MULTI_GPU; leave out --cpu"
        )


def requested_processes(command: str) -> int | None:
    """How many processes a command line asks `accelerate launch` for; None where it is none, or names no number."""
    asked = re.search(r"\baccelerate(?: |-|\S*\.)launch\b.*? --num[_-]processes[ =](\d+)", command)
    return int(asked[1]) if asked else None


def all_gather(value: T, *, same: Mapping[str, Any] | None = None) -> list[T]:
    """Give every process what each of them has, in the order of their ranks. All must call it.

    Args:
        value: Anything that can be pickled.
        same: What must be equal in all of them, by name.

    Raises:
        AgreedError: In every process, if one gave up (`agreement`) or differs, naming its rank.
    """
    if world_size() == 1:
        return [value]
    answers = _gather((None, dict(same or {}), value))
    raise_by_rank({number: error for number, (error, _, _) in enumerate(answers)})
    raise_by_rank({number: _differences(found, answers[0][1]) for number, (_, found, _) in enumerate(answers)})
    return [given for _, _, given in answers]


def shard(items: Sequence[T]) -> Sequence[T]:
    """This process's share of the items, dealt out in turn."""
    return items[rank() :: world_size()]


def all_gather_shards(share: Sequence[T], *, same: Mapping[str, Any] | None = None) -> list[T]:
    """Put what was made of `mine(items)` together again, in the order of the items. All must call it.

    Raises:
        AgreedError: As `exchange`.
    """
    shares = all_gather(share, same=same)
    return [shares[i % len(shares)][i // len(shares)] for i in range(sum(map(len, shares)))]


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
    """Leave the block in all processes or in none: what one cannot do, the others hear of.

    Not around anything in which processes wait for one another by other means, as a training step does.

    Raises:
        AgreedError: In every process, if the block raised a `PipelineError` in one of them.
    """
    if world_size() == 1:
        yield
        return
    try:
        yield
    except DistributedError:
        raise
    except PipelineError as error:
        raise_by_rank({number: answer[0] for number, answer in enumerate(_gather((str(error), {}, None)))})
    else:
        all_gather(None)


def main_first(work: Callable[[], T]) -> T:
    """Do it in the first process of each machine, then in the others, which find in the cache what it left there.

    Raises:
        AgreedError: In every process, if it failed in one.
    """
    results = []
    for turn in (True, False):
        with fail_together():
            if is_local_main_process() == turn:
                results.append(work())
    return results[0]


def on_main_process(work: Callable[[], object]) -> None:
    """Do it in the main process alone, while the others wait: what is written is written once.

    Raises:
        AgreedError: In every process, if it failed.
    """
    with fail_together():
        if is_main_process():
            work()


def any_rank(flag: bool) -> bool:
    """Whether the flag is set in any of the processes. All must call it."""
    if world_size() == 1:
        return flag
    import torch

    highest = torch.tensor(int(flag))
    torch.distributed.all_reduce(highest, op=torch.distributed.ReduceOp.MAX, group=_group())
    return bool(highest)


def shut_down() -> None:
    """Close the connections to the others, at the end of the program."""
    if (torch := sys.modules.get("torch")) and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def raise_by_rank(problems: Mapping[int, str | None]) -> None:
    """Raise what is wrong, by rank; what is wrong everywhere is said once, without a rank.

    Raises:
        AgreedError: If there is any problem.
    """
    found = {number: problem for number, problem in problems.items() if problem}
    if not found:
        return
    if len(found) == len(problems) and len(set(found.values())) == 1:
        raise DistributedError(found[0])
    raise DistributedError("\n".join(f"rank {number}: {problem}" for number, problem in found.items()))


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str | None:
    keys = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    differing = [f"{key} is {found.get(key)}, and {expected.get(key)} in rank 0" for key in keys]
    return f"all processes must agree: {'; '.join(differing)}" if differing else None


def _gather(answer: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    import torch

    group = _group()
    answers: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(answers, answer, group=group)
    return answers


@functools.cache
def _group() -> Any:
    """The processes as a group that talks beside the GPUs, so that no exchange waits for what they compute."""
    import torch
    from accelerate import PartialState

    if not torch.distributed.is_initialized():
        PartialState(cpu=not torch.accelerator.is_available())
    return torch.distributed.new_group(backend="gloo", timeout=_TIMEOUT)


logger = logging.getLogger(__name__)


@contextlib.contextmanager
def progress_on_terminal_only() -> Iterator[None]:
    """Keep the progress bars of `datasets` out of logs and pipes, where they would be noise."""
    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()

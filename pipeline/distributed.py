"""Ranks: collectives, errors that all ranks raise together, and work that only the main process does.

A launcher (`accelerate launch`, `torchrun`) starts the processes and sets their ranks in the environment. With one
process, the collectives return at once. Torch is imported only where a collective needs it.
"""

import contextlib
import datetime as dt
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import psutil

from pipeline.errors import PipelineError

T = TypeVar("T")

# Ranks wait this long for a rank that downloads or prepares data. The launcher stops the job if a rank dies.
_TIMEOUT = dt.timedelta(days=1)


class DistributedError(PipelineError):
    """An error that every rank raises with the same text, so that only the main process needs to show it."""


class LostRankError(PipelineError):
    """An error of a rank that has lost another one, so it exchanges it with none. Each rank shows its own."""


def rank() -> int:
    """Return the rank of this process. Rank 0 is the main process."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Return the number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this is rank 0, the process that prints and writes files."""
    return rank() == 0


def is_local_main_process() -> bool:
    """Return whether this is the first process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def require_all_started() -> None:
    """Reject a job of one process if `accelerate launch` was asked for several.

    Accelerate silently starts one process if it gets `--cpu`, or a launch file whose `distributed_type` does not mean
    several processes.

    Raises:
        PipelineError: If fewer processes were started than requested.
    """
    if world_size() > 1:
        return
    try:
        requested = requested_processes(" ".join(psutil.Process(os.getppid()).cmdline()))
    except psutil.Error:
        return
    if requested and requested > 1:
        raise PipelineError(
            f"accelerate launch was asked for {requested} processes but started 1\n"
            "add --multi_gpu and remove --cpu (on CPUs, set ACCELERATE_USE_CPU=true instead), or use a launch file "
            "with distributed_type: MULTI_GPU"
        )


def requested_processes(command: str) -> int | None:
    """Return the number of processes that a command line requests from `accelerate launch`, or None."""
    found = re.search(r"\baccelerate(?: |-|\S*\.)launch\b.*? --num[_-]processes[ =](\d+)", command)
    return int(found[1]) if found else None


def all_gather(value: T, *, same: Mapping[str, Any] | None = None) -> list[T]:
    """Return the values of all ranks, in the order of the ranks. Every rank must call it.

    Args:
        value: Any value that can be pickled.
        same: Named values that must be equal on all ranks. They are compared in the same collective.

    Raises:
        DistributedError: On every rank, if a value of `same` differs or another rank failed in `fail_together`.
    """
    if world_size() == 1:
        return [value]
    messages = _exchange((None, dict(same or {}), value))
    raise_by_rank({number: error for number, (error, _, _) in enumerate(messages)})
    expected = messages[0][1]
    raise_by_rank({number: _describe_differences(found, expected) for number, (_, found, _) in enumerate(messages)})
    return [gathered for _, _, gathered in messages]


def require_same(values: Mapping[str, Any]) -> None:
    """Check that values are equal on all ranks. Every rank must call it.

    Args:
        values: The values by name. The error shows the names.

    Raises:
        DistributedError: On every rank, if a value differs or another rank failed in `fail_together`.
    """
    all_gather(None, same=values)


def broadcast(value: T | None) -> T:
    """Return the value of rank 0. Every rank must call it.

    Args:
        value: Any value that can be pickled. Only the value of rank 0 is used.

    Raises:
        DistributedError: On every rank, if another rank failed in `fail_together`.
    """
    return cast(T, all_gather(value if is_main_process() else None)[0])


def shard(items: Sequence[T]) -> Sequence[T]:
    """Return this rank's shard of the items, assigned round-robin."""
    return items[rank() :: world_size()]


def all_gather_shards(results: Sequence[T], *, same: Mapping[str, Any] | None = None) -> list[T]:
    """Return the results of all shards, in the order of the items. Every rank must call it.

    Args:
        results: One result for each item of `shard(items)`.
        same: As for `all_gather`.

    Raises:
        DistributedError: As for `all_gather`.
    """
    shards = all_gather(results, same=same)
    return [shards[i % len(shards)][i // len(shards)] for i in range(sum(map(len, shards)))]


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
    """Raise a `PipelineError` of one rank on every rank.

    Do not use it around code in which ranks wait for each other by other means, such as a training step.

    Raises:
        DistributedError: On every rank, if the block raised a `PipelineError` on one of them.
    """
    if world_size() == 1:
        yield
        return
    try:
        yield
    except (DistributedError, LostRankError):
        raise
    except PipelineError as error:
        raise_by_rank({number: message[0] for number, message in enumerate(_exchange((str(error), {}, None)))})
    else:
        all_gather(None)


def main_first(function: Callable[[], T]) -> T:
    """Call the function in the first process of each machine, then in the others, and return its result.

    Use it for functions that fill a cache: the other processes find the cached files.

    Raises:
        DistributedError: On every rank, if the function failed on one of them.
    """
    results = []
    for main_runs in (True, False):
        with fail_together():
            if is_local_main_process() == main_runs:
                results.append(function())
    return results[0]


def on_main_process(function: Callable[[], object]) -> None:
    """Call the function in the main process only, while the other ranks wait.

    Raises:
        DistributedError: On every rank, if the function failed.
    """
    with fail_together():
        if is_main_process():
            function()


def any_rank(flag: bool) -> bool:
    """Return whether the flag is set on at least one rank. Every rank must call it."""
    if world_size() == 1:
        return flag
    import torch

    highest = torch.tensor(int(flag))
    torch.distributed.all_reduce(highest, op=torch.distributed.ReduceOp.MAX, group=_gloo_group())
    return bool(highest)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Let ranks wait for each other this long at most in a block in which each of them always makes progress.

    Every rank must call it. Elsewhere, ranks wait for a rank that downloads or prepares data.

    Raises:
        LostRankError: If a rank does not answer in time, or has ended.
    """
    if world_size() == 1:
        yield
        return
    import torch

    # It is private in earlier versions of torch.
    set_timeout = getattr(torch.distributed, "set_timeout", None) or torch.distributed.distributed_c10d._set_pg_timeout
    groups = (None, _gloo_group())
    try:
        for group in groups:
            set_timeout(dt.timedelta(seconds=seconds), group)
        yield
        for group in groups:
            set_timeout(_TIMEOUT, group)
    except RuntimeError as error:
        if not re.search("timed? ?out|connection closed|connection reset", str(error), re.IGNORECASE):
            raise
        raise LostRankError(
            f"another rank has ended, or has not answered for {seconds:g} s (--ddp_timeout): look for its error above, "
            "or for a process or a disk that hangs; then repeat the command to resume"
        ) from error


def shut_down() -> None:
    """Close the connections to the other ranks. Call it at the end of the program."""
    if (torch := sys.modules.get("torch")) and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def raise_by_rank(problems: Mapping[int, str | None]) -> None:
    """Raise one error for the problems of all ranks. A problem that all ranks share is shown once, without a rank.

    Raises:
        DistributedError: If there is at least one problem.
    """
    found = {number: problem for number, problem in problems.items() if problem}
    if not found:
        return
    if len(found) == len(problems) and len(set(found.values())) == 1:
        raise DistributedError(found[0])
    raise DistributedError("\n".join(f"rank {number}: {problem}" for number, problem in found.items()))


def _describe_differences(values: Mapping[str, Any], expected: Mapping[str, Any]) -> str | None:
    keys = sorted(key for key in values.keys() | expected.keys() if values.get(key) != expected.get(key))
    differences = "; ".join(f"{key} is {values.get(key)}, but {expected.get(key)} on rank 0" for key in keys)
    return f"{differences}: give all ranks the same settings, data and output folder" if keys else None


def _exchange(message: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Return the messages of all ranks: (error text or None, values that must be equal, gathered value).

    Raises:
        LostRankError: If another rank has ended.
    """
    import torch

    group = _gloo_group()
    messages: list[Any] = [None] * world_size()
    try:
        torch.distributed.all_gather_object(messages, message, group=group)
    except RuntimeError as error:
        if not re.search("connection closed|connection reset", str(error), re.IGNORECASE):
            raise
        raise LostRankError(
            "another rank has ended: look for its error above; then repeat the command to resume"
        ) from error
    return messages


@functools.cache
def _gloo_group() -> Any:
    """Return a process group on the CPU, so that collectives do not wait for queued GPU work."""
    import torch
    from accelerate import PartialState

    if not torch.distributed.is_initialized():
        PartialState(cpu=not torch.accelerator.is_available())
    return torch.distributed.new_group(backend="gloo", timeout=_TIMEOUT)

"""Collectives and errors across ranks; `tests/launch` starts whole runs in several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import distributed, progress
from pipeline.errors import PipelineError

# What each of two ranks runs. It writes its results to rank<N>.json.
_TWO_RANKS = """
import json
import os
from pathlib import Path

from pipeline import distributed

rank = distributed.rank()
results = {
    "gathered": distributed.all_gather(f"rank {rank}", same={"seed": 1}),
    "broadcast": distributed.broadcast(["chosen", 1] if rank == 0 else None),
    "rank 0 wins": distributed.broadcast(f"rank {rank}"),
    "shards": distributed.all_gather_shards([2 * item for item in distributed.shard(range(5))]),
    "any": [distributed.any_rank(rank == 1), distributed.any_rank(False)],
}
distributed.require_same({"seed": 1, "data": [1, 2]})
try:
    distributed.require_same({"seed": 1 + rank, "epochs": 3} if rank else {"seed": 1})
except distributed.DistributedError as error:
    results["error"] = str(error)
Path(f"rank{rank}.json").write_text(json.dumps(results))
if rank == 1:
    os._exit(0)  # like a rank that is killed
try:
    distributed.all_gather("value")
except distributed.LostRankError as error:
    Path("lost.txt").write_text(str(error))
"""


def test_one_process_is_the_main_process_with_all_the_work() -> None:
    assert (distributed.rank(), distributed.world_size(), distributed.local_world_size()) == (0, 1, 1)
    assert distributed.is_main_process()
    assert distributed.is_local_main_process()
    assert distributed.all_gather_shards(distributed.shard([3, 1, 2])) == [3, 1, 2]
    assert distributed.all_gather("value", same={"seed": 1}) == ["value"]
    assert distributed.broadcast("value") == "value"
    distributed.require_same({"seed": 1})
    assert distributed.main_first(lambda: 5) == 5
    assert [distributed.any_rank(True), distributed.any_rank(False)] == [True, False]


def test_an_error_of_the_only_process_is_not_changed() -> None:
    with pytest.raises(PipelineError, match=r"^no$") as caught, distributed.fail_together():
        raise PipelineError("no")
    assert not isinstance(caught.value, distributed.DistributedError)


def test_items_are_assigned_round_robin(monkeypatch: pytest.MonkeyPatch) -> None:
    shards = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        shards.append(distributed.shard(range(7)))
    assert [list(shard) for shard in shards] == [[0, 3, 6], [1, 4], [2, 5]]


def test_two_ranks_gather_broadcast_and_compare(tmp_path: Path) -> None:
    (tmp_path / "ranks.py").write_text(_TWO_RANKS)
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "ranks.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "ACCELERATE_USE_CPU": "true"},
        check=True,
        timeout=120,
    )
    results = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert results[0] == results[1]
    assert results[0] == {
        "gathered": ["rank 0", "rank 1"],
        "broadcast": ["chosen", 1],
        "rank 0 wins": "rank 0",
        "shards": [0, 2, 4, 6, 8],
        "any": [True, False],
        "error": "rank 1: epochs is 3, but None on rank 0; seed is 2, but 1 on rank 0: "
        "give all ranks the same settings, data and output folder",
    }
    assert (tmp_path / "lost.txt").read_text().startswith("another rank has ended: look for its error above; ")


@pytest.mark.parametrize(("rank", "enabled", "shown"), [("0", True, True), ("0", False, False), ("1", True, False)])
def test_only_the_main_process_shows_a_progress_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: str, enabled: bool, shown: bool
) -> None:
    monkeypatch.setenv("RANK", rank)
    bar = progress.progress_bar([3, 1], desc="score test", unit="batch", enabled=enabled)
    assert list(bar) == [3, 1]
    assert ("score test" in capsys.readouterr().err) == shown


@pytest.mark.parametrize(
    ("problems", "message"),
    [
        ({0: "bad", 1: "bad"}, "bad"),
        ({0: None, 1: "bad"}, "rank 1: bad"),
        ({0: "bad", 1: "worse", 2: None}, "rank 0: bad\nrank 1: worse"),
    ],
)
def test_a_shared_problem_is_shown_once_and_others_with_their_rank(
    problems: dict[int, str | None], message: str
) -> None:
    with pytest.raises(distributed.DistributedError) as caught:
        distributed.raise_by_rank(problems)
    assert str(caught.value) == message


def test_no_problem_raises_nothing() -> None:
    distributed.raise_by_rank({0: None, 1: None})


@pytest.mark.parametrize(
    ("command", "requested"),
    [
        ("python /x/bin/accelerate launch --cpu --num_processes 2 -m pipeline train", 2),
        ("python -m accelerate.commands.launch --num-processes=4 -m pipeline train", 4),
        ("/x/bin/accelerate-launch --num_processes 1 -m pipeline train", 1),
        ("accelerate launch -m pipeline train", None),
        ("bash run.sh --num_processes 2", None),
    ],
)
def test_the_number_of_processes_is_read_from_the_command_line_of_the_launcher(
    command: str, requested: int | None
) -> None:
    assert distributed.requested_processes(command) == requested

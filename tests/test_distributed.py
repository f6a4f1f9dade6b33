"""One process needs no others; of several, each problem is said once and with its rank (`tests/launch` starts them)."""

import pytest

from pipeline import distributed
from pipeline.errors import PipelineError


def test_one_process_is_the_main_one_and_has_all_the_work() -> None:
    assert (distributed.rank(), distributed.world_size(), distributed.local_world_size()) == (0, 1, 1)
    assert distributed.is_main_process()
    assert distributed.is_local_main_process()
    assert distributed.all_gather_shards(distributed.shard([3, 1, 2])) == [3, 1, 2]
    assert distributed.all_gather("mine", same={"seed": 1}) == ["mine"]
    assert distributed.main_first(lambda: 5) == 5
    assert [distributed.any_rank(True), distributed.any_rank(False)] == [True, False]


def test_an_error_of_one_process_stays_what_it_was() -> None:
    with pytest.raises(PipelineError, match=r"^no$") as caught, distributed.fail_together():
        raise PipelineError("no")
    assert not isinstance(caught.value, distributed.DistributedError)


def test_work_is_dealt_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        shares.append(distributed.shard(range(7)))
    assert [list(share) for share in shares] == [[0, 3, 6], [1, 4], [2, 5]]


@pytest.mark.parametrize(
    ("problems", "said"),
    [
        ({0: "bad", 1: "bad"}, "bad"),
        ({0: None, 1: "bad"}, "rank 1: bad"),
        ({0: "bad", 1: "worse", 2: None}, "rank 0: bad\nrank 1: worse"),
    ],
)
def test_a_problem_is_said_once_and_with_its_rank(problems: dict[int, str | None], said: str) -> None:
    with pytest.raises(distributed.DistributedError) as caught:
        distributed.raise_by_rank(problems)
    assert str(caught.value) == said


def test_no_problem_refuses_nothing() -> None:
    distributed.raise_by_rank({0: None, 1: None})


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("python /x/bin/accelerate launch --cpu --num_processes 2 -m pipeline train", 2),
        ("python -m accelerate.commands.launch --num-processes=4 -m pipeline train", 4),
        ("/x/bin/accelerate-launch --num_processes 1 -m pipeline train", 1),
        ("accelerate launch -m pipeline train", None),
        ("bash run.sh --num_processes 2", None),
    ],
)
def test_what_a_launcher_was_asked_for_is_read_from_its_command_line(words: str, asked: int | None) -> None:
    assert distributed.requested_processes(words) == asked

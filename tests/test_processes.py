"""One process needs no others; of several, each problem is said once and with its rank (`tests/launch` starts them)."""

import pytest

from pipeline import processes
from pipeline.errors import PipelineError


def test_one_process_is_the_main_one_and_has_all_the_work() -> None:
    assert (processes.rank(), processes.world_size(), processes.processes_here()) == (0, 1, 1)
    assert processes.is_main()
    assert processes.is_first_of_machine()
    assert processes.join(processes.mine([3, 1, 2])) == [3, 1, 2]
    assert processes.exchange("mine", same={"seed": 1}) == ["mine"]
    assert processes.main_first(lambda: 5) == 5
    assert [processes.any_of(True), processes.any_of(False)] == [True, False]


def test_an_error_of_one_process_stays_what_it_was() -> None:
    with pytest.raises(PipelineError, match=r"^no$") as caught, processes.agreement():
        raise PipelineError("no")
    assert not isinstance(caught.value, processes.AgreedError)


def test_work_is_dealt_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        shares.append(processes.mine(range(7)))
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
    with pytest.raises(processes.AgreedError) as caught:
        processes.refuse_problems(problems)
    assert str(caught.value) == said


def test_no_problem_refuses_nothing() -> None:
    processes.refuse_problems({0: None, 1: None})


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
    assert processes.asked_for(words) == asked

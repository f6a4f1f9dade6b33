"""Work in a thread: one piece at a time, and no error is lost."""

import threading

import pytest

from pipeline.runs.background import Background


def test_the_caller_goes_on_and_the_next_piece_waits_for_the_one_before() -> None:
    background, may_end, done = Background(), threading.Event(), list[str]()

    def first() -> None:
        may_end.wait(10)
        done.append("first")

    background.start(first)
    assert done == []
    threading.Timer(0.1, may_end.set).start()
    background.start(lambda: done.append("second"))
    background.join()
    background.join()
    assert done == ["first", "second"]


def test_the_next_call_raises_the_error_once() -> None:
    background = Background()
    for call in (background.join, lambda: background.start(list)):
        background.start(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            call()
        background.join()

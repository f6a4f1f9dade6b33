"""Long work shows that it continues: on a terminal, and now and then in a log."""

import io
import logging
import threading

import pytest

from pipeline import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS_IN_LOG", 0.02)
    monkeypatch.setattr(progress, "_SECONDS_ON_TERMINAL", 0.02)


def wait_for_calls(number: int) -> None:
    """Return as soon as the text was asked for this number of times."""
    done: list[None] = []
    enough = threading.Event()

    def describe() -> str:
        done.append(None)
        if len(done) == number:
            enough.set()
        return f"listing photos: {len(done)} images"

    with progress.show_life(describe):
        assert enough.wait(30)


def test_a_log_gets_a_line_with_the_state_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    wait_for_calls(2)
    assert caplog.messages[:2] == ["listing photos: 1 images", "listing photos: 2 images"]


def test_a_terminal_gets_one_line_that_is_removed_at_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    caplog.set_level(logging.INFO, logger="pipeline")
    wait_for_calls(3)
    shown = terminal.getvalue()
    assert "listing photos: 2 images" in shown
    assert "\n" not in shown
    assert shown.split("\r")[-2].strip() == ""
    assert caplog.messages == []


def test_short_work_and_other_ranks_show_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    monkeypatch.setattr(progress, "_SECONDS_IN_LOG", 30)
    with progress.show_life(lambda: "reading"):
        pass
    monkeypatch.setenv("RANK", "1")
    threads = threading.active_count()
    with progress.show_life(lambda: "reading"):
        assert threading.active_count() == threads
    assert caplog.messages == []


def test_an_error_of_the_work_is_raised() -> None:
    with pytest.raises(ValueError, match="damaged"), progress.show_life(lambda: "reading"):
        raise ValueError("damaged")

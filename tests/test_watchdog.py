"""Reading that hangs ends a command with one line, in data workers and in the main process."""

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.PngImagePlugin
import psutil
import pytest
import torch

from pipeline import watchdog
from pipeline.distributed import LostRankError
from pipeline.errors import PipelineError
from pipeline.images.transforms import ImageLoader
from pipeline.watchdog import _Watch, must_progress, reading, waiting
from tests.conftest import COLORS, noisy_image, save_vit

Run = Callable[..., tuple[int, str, str]]
HANGING = (29, 23)  # size of the image whose decoder never ends

PROGRAM = """
import os, signal, sys, time
from pipeline import signals, watchdog
from pipeline.images.transforms import ImageLoader
watchdog._SECONDS_TO_END = 0.5
if sys.argv[1] == "orphan":
    loader = ImageLoader([1, 2, 3], num_workers=1, batch_size=1, persistent_workers=True, collate_fn=list)
    assert len(list(loader)) == 3
    worker = loader._iterator._workers[0].pid
    os.kill(worker, signal.SIGSTOP)
    print(worker, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])  # like a system call that nothing interrupts
with signals.raised(), watchdog.must_progress(1), watchdog.reading("a.jpg"):
    time.sleep(60)
"""


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes the decoder of PNG never end for an image of one size."""
    load = PIL.PngImagePlugin.PngImageFile.load
    main = os.getpid()

    def hang(*, in_workers_only: bool) -> None:
        def loading(image: PIL.PngImagePlugin.PngImageFile) -> Any:
            while image.size == HANGING and (os.getpid() != main or not in_workers_only):
                time.sleep(0.01)
            return load(image)

        monkeypatch.setattr(PIL.PngImagePlugin.PngImageFile, "load", loading)

    return hang


def run(phase: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM, phase], capture_output=True, text=True, check=False)


def test_an_image_is_named_after_the_limit_and_time_between_two_looks_does_not_count() -> None:
    watch = _Watch(10)
    with reading("photos/a.jpg"):
        assert [watch._look(5.0), watch._look(4.0)] == [None, None]
        assert watch._look(1.0) == (
            "this process has been reading photos/a.jpg for 10 s: check the disk or network mount of photos/a.jpg, or "
            "raise --dataloader_timeout; then repeat the command"
        )
    with reading("photos/b.jpg"):
        assert watch._look(9.0) is None


def test_a_batch_is_late_only_if_nothing_is_read_meanwhile() -> None:
    watch = _Watch(None)
    with waiting():
        for image in ("a.jpg", "b.jpg", "c.jpg"):  # a slow disk
            with reading(image):
                assert watch._look(200.0) is None
        assert watch._look(200.0) is None
        assert watch._look(300.0) == (
            "no batch of images has arrived for 300 s: check the disk or network mount; then repeat the command"
        )
    for _ in range(3):
        with waiting():
            assert watch._look(200.0) is None
    assert watch._look(1000.0) is None


def test_an_image_of_a_process_that_was_killed_is_forgotten() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    offset = child.pid % watchdog._NUM_NOTES * watchdog._NOTE.size
    watchdog._NOTE.pack_into(watchdog._notes, offset, child.pid, 1.0, b"a.jpg")
    try:
        watch = _Watch(10)
        assert [watch._look(9.0) for _ in range(3)] == [None] * 3
    finally:
        watchdog._NOTE.pack_into(watchdog._notes, offset, 0, 0.0, b"")


def test_an_error_in_the_block_stays_as_it_is_and_the_handler_is_restored() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(KeyError, match="mine"), must_progress():
        raise KeyError("mine")
    assert signal.getsignal(signal.SIGALRM) == before


def test_the_main_thread_is_interrupted_and_only_the_inner_block_looks() -> None:
    start = time.monotonic()
    with must_progress(0.1), must_progress(60), reading("slow.jpg"):
        time.sleep(0.5)
    with (
        pytest.raises(LostRankError, match=r"^this process has been reading a\.jpg for 0\.5 s: "),
        must_progress(0.5),
        reading("a.jpg"),
    ):
        time.sleep(60)
    assert time.monotonic() - start < 10


def test_a_process_that_nothing_interrupts_ends_with_one_line() -> None:
    done = run("uninterruptible")
    assert done.returncode == 2
    assert done.stderr == (
        "error: this process has been reading a.jpg for 1 s: check the disk or network mount of a.jpg, or raise "
        "--dataloader_timeout; then repeat the command\n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not end children with their parent")
def test_a_stopped_worker_ends_with_its_killed_parent() -> None:
    done = run("orphan")
    assert done.returncode == -signal.SIGKILL, done.stderr
    end = time.monotonic() + 10
    while psutil.pid_exists(int(done.stdout)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not psutil.pid_exists(int(done.stdout))


@pytest.mark.parametrize(("workers", "who"), [(0, "this process"), (2, r"data worker \d+")])
def test_an_image_whose_decoder_never_ends_is_named_by_train(
    workers: int,
    who: str,
    hang: Callable[..., None],
    vit_pipeline: Run,
    train_flags: list[str],
    make_folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    hang(in_workers_only=workers > 0)
    data = make_folder(train=12, validation=6)
    flags = [*train_flags, f"--dataset_name={data}", f"--output_dir={tmp_path / 'run'}"]
    flags += ["--dataloader_timeout=1", f"--dataloader_num_workers={workers}"]
    noisy_image((9, 9, 9), 1, size=HANGING).save(data / "validation" / "red" / "hangs.png")
    start = time.monotonic()
    code, _, err = vit_pipeline("train", *flags)
    assert code == 2
    assert re.match(rf"error: {who} has been reading .*red/hangs\.png for 1 s: check ", err.splitlines()[-1]), err
    assert time.monotonic() - start < 30
    assert (tmp_path / "run" / "run.json").exists() == (workers > 0)
    hang(in_workers_only=True)
    assert vit_pipeline("train", *flags, "--dataloader_num_workers=0")[0] == 0


def test_an_image_whose_decoder_never_ends_is_named_by_predict(
    hang: Callable[..., None], vit_pipeline: Run, tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang(in_workers_only=False)
    monkeypatch.setattr(watchdog, "SECONDS", 1.0)
    noisy_image((9, 9, 9), 1, size=HANGING).save(tmp_path / "hangs.png")
    code, _, err = vit_pipeline("predict", f"--model={tiny_vit}", tmp_path)
    assert code == 2
    assert f"error: this process has been reading {tmp_path / 'hangs.png'} for 1 s: check" in err


@pytest.mark.parametrize(
    ("function", "path", "named"),
    [
        ("scandir", "train/b", "train/b"),
        ("stat", "train/b/1.png", "train/b/1.png"),
        ("stat", "", "the paths in the command"),
    ],
)
def test_a_mount_that_answers_no_listing_and_no_status_is_named(
    function: str,
    path: str,
    named: str,
    vit_pipeline: Run,
    tiny_vit: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos = tmp_path / "photos"
    for name, color in zip("ab", COLORS.values(), strict=False):
        for split in ("train", "validation"):
            (photos / split / name).mkdir(parents=True)
            for i in range(3):
                noisy_image(color, i).save(photos / split / name / f"{i}.png")
    call = getattr(os, function)

    def hanging(place: Any = ".", *args: Any, **options: Any) -> Any:
        if place == photos / path or place == str(photos / path):
            time.sleep(60)
        return call(place, *args, **options)

    monkeypatch.setattr(os, function, hanging)
    monkeypatch.setattr(watchdog, "SECONDS", 0.5)
    flags = [f"--model_name_or_path={tiny_vit}", f"--dataset_name={photos}", f"--output_dir={tmp_path / 'run'}"]
    code, _, err = vit_pipeline("train", *flags, "--strategy=head", "--dataloader_timeout=1")
    assert code == 2
    named = f"{photos / named}" if path else named
    assert f"error: this process has been reading {named} for " in err
    assert f"check the disk or network mount of {named}" in err


class Large:
    """Rows that a worker cannot send, because it cannot get shared memory."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, row: int) -> torch.Tensor:
        tensor = torch.zeros(20_000_000)
        limit = psutil.Process().memory_info().vms + 2**24
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
        return tensor


def test_a_worker_without_shared_memory_ends_and_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    loader = ImageLoader(Large(), batch_size=None, collate_fn=lambda row: row, num_workers=1)
    with (
        pytest.raises(PipelineError, match=r"^a data worker died .*\(in a container also --shm-size"),
        must_progress(20),
    ):
        list(loader)
    assert re.search(r"^data worker \d+ cannot send a batch: unable to .*memory", capfd.readouterr().err, re.MULTILINE)


@pytest.fixture
def special(make_folder: Callable[..., Path]) -> Path:
    """Class folders with a named pipe, a socket and a device (a link, because a device file needs root)."""
    data = make_folder(train=12, validation=6, test=6)
    os.mkfifo(data / "test" / "red" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(data / "test" / "red" / "socket.png"))
    (data / "test" / "red" / "zero.png").symlink_to("/dev/zero")
    return data


@pytest.mark.parametrize("verb", ["train", "doctor", "evaluate", "predict", "predict a pattern"])
def test_pipes_sockets_and_devices_are_named_and_not_opened(
    verb: str, special: Path, vit_pipeline: Run, train_flags: list[str], tmp_path: Path
) -> None:
    names = dict(enumerate(sorted(COLORS)))
    trained = save_vit(tmp_path / "vit", num_labels=3, id2label=names, label2id={v: k for k, v in names.items()})
    words: dict[str, list[object]] = {
        "train": ["train", *train_flags, f"--dataset_name={special}", f"--output_dir={tmp_path / 'run'}"],
        "doctor": ["doctor", *train_flags, f"--dataset_name={special}", f"--output_dir={tmp_path / 'run'}"],
        "evaluate": ["evaluate", f"--model={trained}", f"--dataset_name={special}"],
        "predict": ["predict", f"--model={trained}", special / "test" / "red", "--bad_images=fail"],
        "predict a pattern": ["predict", f"--model={trained}", special / "test" / "red" / "[pz]*.png"],
    }
    code, out, err = vit_pipeline(*words[verb])
    assert code == 2, err
    for name in ["pipe", "socket", "zero"] if verb in ("train", "doctor", "evaluate") else ["pipe"]:
        assert f"{name}.png: not a regular file" in out + err, err

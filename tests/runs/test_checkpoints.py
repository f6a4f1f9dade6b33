"""A checkpoint counts only if every file is as it was saved."""

import os
import shutil
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.runs import checkpoints
from pipeline.runs.checkpoints import MANIFEST, find_damage, newest_complete_checkpoint, saved_steps
from pipeline.runs.files import read_json, write_json
from tests.runs.damage import DAMAGE


@pytest.fixture
def two_checkpoints(finished_run: Path, tmp_path: Path) -> Path:
    """One checkpoint of the real Trainer, copied as step 6 and as step 12."""
    complete = newest_complete_checkpoint(finished_run)
    assert complete is not None
    for step in (6, 12):
        shutil.copytree(complete, tmp_path / f"checkpoint-{step}")
    return tmp_path


def test_the_manifest_lists_every_file(two_checkpoints: Path) -> None:
    checkpoint = two_checkpoints / "checkpoint-6"
    listed = read_json(checkpoint / MANIFEST)["files"].keys()
    assert listed == {path.name for path in checkpoint.iterdir()} - {MANIFEST}
    needed = {"config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
    assert listed >= needed
    assert find_damage(checkpoint) is None


def test_the_newest_checkpoint_has_the_highest_step(two_checkpoints: Path) -> None:
    assert newest_complete_checkpoint(two_checkpoints) == two_checkpoints / "checkpoint-12"
    (two_checkpoints / "checkpoint-6").rename(two_checkpoints / "checkpoint-100")
    (two_checkpoints / "checkpoint-final").mkdir()
    assert saved_steps(two_checkpoints) == [100, 12]
    assert newest_complete_checkpoint(two_checkpoints) == two_checkpoints / "checkpoint-100"


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_of_any_file_is_found_and_named(two_checkpoints: Path, damage: str) -> None:
    checkpoint, whole = two_checkpoints / "checkpoint-12", two_checkpoints / "checkpoint-6"
    harmless = {MANIFEST} if damage == "last byte gone" else set()  # it is the end of the line
    for name in sorted({path.name for path in whole.iterdir()} - harmless):
        DAMAGE[damage](checkpoint / name)
        if damage == "middle zeroed" and (checkpoint / name).read_bytes() == (whole / name).read_bytes():
            continue  # it was zero before
        assert str(find_damage(checkpoint)).startswith(f"{name} is {'missing' if damage == 'absent' else 'damaged'}")
        assert newest_complete_checkpoint(two_checkpoints) == whole
        shutil.copy2(whole / name, checkpoint / name)
        assert find_damage(checkpoint) is None


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"files": 3}', '{"files": {"config.json": 7}}', '{"files": {"a": ["b"]}}']
)
def test_a_manifest_of_another_form_is_damaged(two_checkpoints: Path, text: str) -> None:
    (two_checkpoints / "checkpoint-12" / MANIFEST).write_text(text)
    assert find_damage(two_checkpoints / "checkpoint-12") == f"{MANIFEST} is damaged"


def test_a_folder_without_checkpoints_has_no_newest_one(tmp_path: Path) -> None:
    assert newest_complete_checkpoint(tmp_path) is None
    assert newest_complete_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("best", "keep", "left"),
    [(1, 2, [5, 4, 1]), (5, 2, [5, 4]), (None, 0, []), (3, 0, [3]), (3, None, [5, 4, 3, 2, 1])],
)
def test_the_best_and_the_newest_checkpoints_are_kept(
    tmp_path: Path, best: int | None, keep: int | None, left: list[int]
) -> None:
    for step in range(1, 6):
        (tmp_path / f"checkpoint-{step}").mkdir()
        write_json(tmp_path / f"checkpoint-{step}" / MANIFEST, {"files": {}})
    checkpoints.rotate(tmp_path, best=best, keep=keep)
    assert saved_steps(tmp_path) == left


def test_a_checkpoint_that_is_set_aside_no_longer_counts(
    two_checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):  # the second one replaces the first one
        shutil.copytree(two_checkpoints / "checkpoint-6", two_checkpoints / "checkpoint-18")
        checkpoints.set_aside(two_checkpoints / "checkpoint-18", "optimizer.pt is damaged")
    assert caplog.messages == ["checkpoint-18 is not used and is set aside: optimizer.pt is damaged"] * 2
    assert saved_steps(two_checkpoints) == [12, 6]
    assert (two_checkpoints / "unusable-checkpoint-18" / "optimizer.pt").exists()
    checkpoints.clean_up(two_checkpoints)
    assert {path.name for path in two_checkpoints.iterdir()} == {"checkpoint-6", "checkpoint-12"}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_files_get_the_permissions_of_the_umask(two_checkpoints: Path, umask: int, mode: int) -> None:
    checkpoint = two_checkpoints / "checkpoint-6"
    before = os.umask(umask)
    try:
        checkpoints.seal(checkpoint)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in checkpoint.iterdir()} == {mode}


def test_a_disk_without_room_is_named_with_the_bytes_that_are_needed(tmp_path: Path) -> None:
    checkpoints.require_space(tmp_path / "checkpoint-6", 1)
    with pytest.raises(PipelineError, match=r"^cannot save .*checkpoint-6, which needs \d{19} bytes \(\d+ are free\)"):
        checkpoints.require_space(tmp_path / "checkpoint-6", 10**18)

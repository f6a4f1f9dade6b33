"""check_images applies the policy for images that cannot be read: fail or skip."""

import logging
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest

from pipeline.data import bad_images
from pipeline.data.bad_images import check_images, describe_skipped
from pipeline.errors import PipelineError
from pipeline.images.decode import check_image
from tests.images.hazards import encode, encode_16_bit_rgb, noise


def value(data: bytes | None, path: str | None = None) -> dict[str, Any]:
    """Return a value of a `datasets.Image(decode=False)` column."""
    return {"bytes": data, "path": path}


def split_of(images: list[dict[str, Any] | None]) -> datasets.Dataset:
    """Return a split whose `index` counts from 100."""
    features = datasets.Features({"image": datasets.Image(decode=False), "index": datasets.Value("int64")})
    columns = {"image": images, "index": [100 + row for row in range(len(images))]}
    return datasets.Dataset.from_dict(columns, features=features)


def test_a_split_without_bad_images_is_returned_itself() -> None:
    split = split_of([value(encode(noise(), image_format)) for image_format in ("PNG", "JPEG", "WEBP")])
    assert check_images({"train": split}, policy="fail")["train"] is split


def test_fail_names_twenty_images_counts_all_and_says_what_to_do(tmp_path: Path) -> None:
    bad: list[dict[str, Any] | None] = [value(b"nothing", f"{number}.png") for number in range(24)]
    split = split_of([value(encode(noise())), *bad, value(None, str(tmp_path / "gone.png"))])
    with pytest.raises(PipelineError) as caught:
        check_images({"test": split}, policy="fail")
    text = str(caught.value)
    assert text.startswith("test: 25 of 26 images cannot be read: row 101 (0.png): not an image")
    assert text.count("not an image") == 20
    assert text.endswith("; and 5 more\nfix or remove them, or pass --bad_images skip")


def test_bad_images_of_all_splits_are_named_by_one_error() -> None:
    good, bad = value(encode(noise())), value(b"<html>404</html>")
    with pytest.raises(PipelineError) as caught:
        check_images(
            {"train": split_of([bad, good]), "validation": split_of([good]), "test": split_of([bad])}, policy="fail"
        )
    train, test, remedy = str(caught.value).splitlines()
    assert train.startswith("train: 1 of 2 images cannot be read: row 100: not an image but an HTML page")
    assert test.startswith("test: 1 of 1 images cannot be read: row 100: not an image but an HTML page")
    assert remedy == "fix or remove them, or pass --bad_images skip"


def test_fail_names_a_file_by_its_path_and_an_empty_cell_by_its_row(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(encode(noise(size=(64, 64)), "JPEG")[:-400])
    with pytest.raises(PipelineError) as caught:
        check_images({"test": split_of([value(encode(noise())), value(None, str(file)), None])}, policy="fail")
    first_line = str(caught.value).splitlines()[0]
    assert first_line.startswith(f"test: 2 of 3 images cannot be read: {file}: ")
    assert "truncated" in first_line.lower()
    assert first_line.endswith("; row 102: no image in this row")


def test_skip_drops_bad_images_with_one_warning_a_split(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    good, bad = value(encode(noise())), value(b"bad")
    gone = str(tmp_path / "gone.png")
    splits = check_images(
        {"train": split_of([good, bad, value(None, gone), good]), "test": split_of([good, bad])}, policy="skip"
    )
    assert splits["train"]["index"][:] == [100, 103]
    assert splits.skipped == (
        ("train", "row 101", "not an image but a text file"),
        ("train", gone, "no such file or directory"),
        ("test", "row 101", "not an image but a text file"),
    )
    assert describe_skipped(splits.skipped).splitlines() == [
        "skipped 3 images that cannot be read:",
        "  train: row 101: not an image but a text file",
        f"  train: {gone}: no such file or directory",
        "  test: row 101: not an image but a text file",
    ]
    assert describe_skipped([]) == ""
    record, _ = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "train: 2 of 4 images cannot be read; skipping them: row 101: not an image" in record.getMessage()
    assert f"{tmp_path / 'gone.png'}: no such file" in record.getMessage()


def test_skip_rejects_a_split_that_would_be_empty() -> None:
    with pytest.raises(PipelineError, match="train: 1 of 1 images cannot be read, so the split would be empty"):
        check_images({"train": split_of([value(b"bad")])}, policy="skip")


# --- bit depth


def gray(*maxima: int) -> datasets.Dataset:
    """Return a split of 16-bit grayscale images with these largest values."""
    images = [PIL.Image.fromarray(np.array([[0, maximum]], dtype=np.uint16)) for maximum in maxima]
    return split_of([value(encode(image)) for image in images])


@pytest.mark.parametrize(
    ("maxima", "bits"), [((30, 200), 8), ((256, 255), 9), ((1029, 900), 11), ((4095,), 12), ((32768, 32767), 16)]
)
def test_the_depth_is_measured_on_train_and_logged(
    maxima: tuple[int, ...], bits: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    splits = check_images({"train": gray(*maxima), "validation": gray(60000)}, policy="fail")
    assert splits.grayscale_bits == bits
    (line,) = [record.getMessage() for record in caplog.records if "16 bits" in record.getMessage()]
    assert f"values up to {max(maxima)}; scaling values from 0 to {2**bits - 1} to 8 bits" in line
    assert "dark" not in caplog.text


def test_images_that_one_bright_image_makes_dark_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    assert check_images({"train": gray(65535, 4095, 4096, 0, 1029)}, policy="fail").grayscale_bits == 16
    assert "dark: 2 of these images use values up to 4095 only" in caplog.text


def test_8_bit_images_have_no_depth() -> None:
    split = split_of([value(encode(noise(mode))) for mode in ("L", "RGB", "RGBA")])
    assert check_images({"train": split}, policy="fail").grayscale_bits is None


@pytest.mark.parametrize(("maximum", "is_dark"), [(255, True), (4095, True), (4096, False), (65535, False)])
def test_dark_16_bit_color_images_are_counted(maximum: int, is_dark: bool, caplog: pytest.LogCaptureFixture) -> None:
    pixels = np.full((2, 3, 3), maximum)
    check_images({"train": split_of([value(encode_16_bit_rgb(pixels)), value(encode(noise()))])}, policy="fail")
    expected = "dark: 1 color images of train have 16 bits and use at most 12 of them, so they are almost black"
    assert (expected in caplog.text) == is_dark


def test_a_stream_is_refused_if_the_16_bit_images_of_validation_are_dark() -> None:
    stream: Any = object()
    check_images({"train": stream, "validation": gray(70, 60000)}, policy="fail")
    with pytest.raises(PipelineError, match=r"validation has 16-bit .* up to 1029 only, .*: remove --streaming"):
        check_images({"train": stream, "validation": gray(70, 1029)}, policy="fail")


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ten images enough for two processes."""
    monkeypatch.setattr(bad_images, "_MIN_IMAGES_FOR_PROCESSES", 4)
    monkeypatch.setattr("pipeline.performance.machine.usable_cores", lambda: 2)


@pytest.mark.usefixtures("two_processes")
def test_several_processes_check_many_images(capfd: pytest.CaptureFixture[str]) -> None:
    split = split_of([value(b"bad") if row in (3, 8) else value(encode(noise())) for row in range(10)])
    expected = [100 + row for row in range(10) if row not in (3, 8)]
    assert check_images({"train": split}, policy="skip")["train"]["index"][:] == expected
    assert check_images({"train": gray(*[900] * 9, 3000)}, policy="skip").grayscale_bits == 12
    assert sum(bad_images._num_checked) == 10
    assert capfd.readouterr().err == ""  # no progress bars in logs


@pytest.mark.usefixtures("two_processes")
def test_the_result_for_a_stored_split_is_cached(tmp_path: Path) -> None:
    split_of([value(encode(noise())) for _ in range(10)]).save_to_disk(tmp_path / "split", num_proc=None)
    check_images({"train": datasets.load_from_disk(tmp_path / "split")}, policy="fail")
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "split").glob("cache-*.arrow")}
    assert written
    check_images({"train": datasets.load_from_disk(tmp_path / "split")}, policy="fail")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "split").glob("cache-*.arrow")} == written


def test_more_than_the_accepted_fraction_is_not_skipped() -> None:
    good, bad = value(encode(noise())), value(b"bad")
    splits = {"train": split_of([bad, *[good] * 9, bad]), "validation": split_of([bad, good])}
    assert len(check_images(splits, policy="skip", max_bad=0.2)["train"]) == 9
    with pytest.raises(
        PipelineError, match=r"train: 2 of 11 images cannot be read, more than --max_bad_images 0.1: "
    ) as e:
        check_images(splits, policy="skip", max_bad=0.1)
    assert "pass --max_bad_images 0.19" in str(e.value)
    assert "validation" not in str(e.value)  # one image may always be skipped


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> list[str]:
    """The names of the images that are read, where every verdict is kept."""
    monkeypatch.setattr(bad_images, "_MIN_SECONDS_TO_KEEP", 0)
    names: list[str] = []

    def counted(value: Any, *, name: str) -> Any:
        names.append(name)
        return check_image(value, name=name)

    monkeypatch.setattr(bad_images, "check_image", counted)
    assert not list(empty_cache.iterdir())
    return names


def files(folder: Path, *contents: bytes) -> datasets.Dataset:
    for number, content in enumerate(contents):
        if not (folder / f"{number}.png").exists():
            (folder / f"{number}.png").write_bytes(content)
    return split_of([value(None, str(folder / f"{number}.png")) for number in range(len(contents))])


def test_images_that_an_earlier_command_could_read_are_not_read_again(reads: list[str], tmp_path: Path) -> None:
    contents = [
        encode(noise()),
        encode(PIL.Image.fromarray(np.full((8, 8), 900, np.uint16))),
        encode_16_bit_rgb(np.full((4, 4, 3), 9000, np.uint16)),
    ]
    first, again = (check_images({"train": files(tmp_path, *contents)}, policy="fail") for _ in range(2))
    assert len(reads) == 3
    assert first.grayscale_bits == again.grayscale_bits == 10
    (tmp_path / "0.png").write_bytes(encode(noise(size=(9, 9))))
    check_images({"train": files(tmp_path, *contents)}, policy="fail")
    assert len(reads) == 6
    check_images({"train": split_of([value(content) for content in contents])}, policy="fail")
    check_images({"train": split_of([value(content) for content in contents])}, policy="fail")
    assert len(reads) == 9


def test_bad_images_are_read_again(reads: list[str], tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(PipelineError, match="1 of 2 images cannot be read"):
            check_images({"train": files(tmp_path, encode(noise()), b"bad")}, policy="fail")
    assert len(reads) == 4


def test_a_damaged_verdict_is_replaced(reads: list[str], empty_cache: Path, tmp_path: Path) -> None:
    check_images({"train": files(tmp_path, encode(noise()))}, policy="fail")
    (verdict,) = (empty_cache / "vit-pipeline" / "checked").iterdir()
    verdict.write_text("{")
    check_images({"train": files(tmp_path, encode(noise()))}, policy="fail")
    check_images({"train": files(tmp_path, encode(noise()))}, policy="fail")
    assert len(reads) == 2

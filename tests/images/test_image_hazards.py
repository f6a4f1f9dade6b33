"""Unusual files give the expected pixels or the same error in train, evaluate and predict."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from transformers import BitImageProcessor, ViTImageProcessor

from pipeline.arguments.images import ImageArguments
from pipeline.data.bad_images import check_images
from pipeline.errors import BadImageError, PipelineError
from pipeline.images.decode import open_image
from pipeline.images.transforms import EvalTransform, TrainTransform
from tests.images.hazards import READABLE, UNREADABLE, Pixels, encode

RESIZES: Any = ViTImageProcessor(size={"height": 16, "width": 16})


def transforms_of(processor: Any) -> tuple[EvalTransform, TrainTransform]:
    return EvalTransform(processor), TrainTransform(processor, ImageArguments(), seed=5)


def write(folder: Path, name: str, data: bytes) -> Path:
    file = folder / name
    file.write_bytes(data)
    return file


def batch_of(file: Path) -> dict[str, list[Any]]:
    return {"image": [{"bytes": None, "path": str(file)}], "label": [0], "index": [3]}


def split_of(file: Path) -> datasets.Dataset:
    features = datasets.Features(
        image=datasets.Image(decode=False), label=datasets.Value("int64"), index=datasets.Value("int64")
    )
    return datasets.Dataset.from_dict(batch_of(file), features=features)


@pytest.mark.parametrize("case", READABLE)
def test_a_readable_file_gives_the_expected_upright_pixels(case: str, tmp_path: Path) -> None:
    expected = READABLE[case]
    file = write(tmp_path, expected.name, expected.data)
    image = open_image(file, name="image")
    assert image.mode == "RGB"
    pixels = np.asarray(image)
    assert pixels.shape == expected.pixels.shape
    assert np.abs(pixels.astype(int) - expected.pixels).max() <= expected.tolerance
    split = split_of(file)
    assert check_images({"train": split}, policy="fail")["train"] is split


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_unreadable_file_is_rejected_with_its_name_and_the_reason(case: str, tmp_path: Path) -> None:
    expected = UNREADABLE[case]
    file = write(tmp_path, expected.name, expected.data)
    with pytest.raises(BadImageError, match=rf"^that file: .*({expected.reason})") as caught:
        open_image(file, name="that file")
    assert "\n" not in str(caught.value)
    assert "BytesIO" not in str(caught.value)
    with pytest.raises(PipelineError, match=rf"^train: 1 of 1 images cannot be read: {re.escape(str(file))}: "):
        check_images({"train": split_of(file)}, policy="fail")


def test_paths_that_are_not_image_files_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "text.png").symlink_to(write(tmp_path, "note.txt", b"a note"))
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "folder.png").mkdir()
    for name, reason in {
        "text.png": "not an image",
        "gone.png": "no such file",
        "never.png": "no such file",
        "self.png": "too many levels of symbolic links",
        "folder.png": "is a directory",
    }.items():
        with pytest.raises(BadImageError, match=f"^x: {reason}"):
            open_image(tmp_path / name, name="x")
    with pytest.raises(BadImageError, match=r"^x: no such file"):
        open_image({"bytes": None, "path": "https://example.com/x.png"}, name="x")
    with pytest.raises(BadImageError, match=r"^x: no image in this row"):
        open_image(None, name="x")


@pytest.mark.parametrize(("limit", "readable"), [(6000, True), (4000, False)])
def test_large_images_are_read_without_a_warning_up_to_twice_pillows_limit(
    limit: int, readable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", limit)
    file = write(tmp_path, "big.png", encode(PIL.Image.new("1", (100, 100), 1)))
    if readable:
        assert open_image(file, name="big").getpixel((99, 99)) == (255, 255, 255)
    else:
        with pytest.raises(BadImageError, match="decompression bomb"):
            open_image(file, name="big")


# Every verb must treat these files like a plain PNG of the same pixels, because their pixels are known exactly.
EXACT = {case: readable for case, readable in READABLE.items() if readable.tolerance == 0 and case != "PNG"}


def plain_png(pixels: Pixels) -> bytes:
    return encode(PIL.Image.fromarray(np.ascontiguousarray(pixels)))


@pytest.mark.parametrize("case", EXACT)
def test_train_and_evaluate_see_the_expected_pixels(case: str, tmp_path: Path) -> None:
    readable = EXACT[case]
    unusual = batch_of(write(tmp_path, readable.name, readable.data))
    plain = batch_of(write(tmp_path, "plain.png", plain_png(readable.pixels)))
    for transform in transforms_of(RESIZES):
        (actual,), (expected,) = (transform(batch)["pixel_values"] for batch in (unusual, plain))
        assert actual.shape == (3, 16, 16)
        assert torch.equal(actual, expected)


def test_predict_sees_the_expected_pixels(
    tmp_path: Path, tiny_vit: Path, vit_pipeline: Callable[..., tuple[int, str, str]]
) -> None:
    answers = {}
    for variant in ("unusual", "plain"):
        folder = tmp_path / variant
        folder.mkdir()
        for number, readable in enumerate(EXACT.values()):
            write(folder, f"{number:02}.png", readable.data if variant == "unusual" else plain_png(readable.pixels))
        code, out, _ = vit_pipeline("predict", "--model", tiny_vit, folder, "--top_k", 5)
        assert code == 0
        answers[variant] = out.replace(str(folder), "")
    assert answers["unusual"] == answers["plain"]
    assert answers["unusual"].count(".png") == len(EXACT)
    assert (
        len(set(re.findall(r"\d+\.\d+ ?%", answers["unusual"]))) > 50
    )  # The model gives different images different answers.


@pytest.mark.parametrize(
    "case", ["empty", "JPEG without its last two bytes", "PNG with a wrong checksum", "14000 x 14000 pixels"]
)
def test_all_verbs_reject_an_image_with_the_same_text(
    case: str, tmp_path: Path, tiny_vit: Path, vit_pipeline: Callable[..., tuple[int, str, str]]
) -> None:
    file = write(tmp_path, UNREADABLE[case].name, UNREADABLE[case].data)
    with pytest.raises(BadImageError) as opened:
        open_image(file, name=str(file))
    text = str(opened.value)
    for transform in transforms_of(RESIZES):
        with pytest.raises(BadImageError) as caught:
            transform(batch_of(file))
        assert str(caught.value) == text
    with pytest.raises(PipelineError) as caught_by_check:
        check_images({"train": split_of(file)}, policy="fail")
    assert text in str(caught_by_check.value)
    code, _, err = vit_pipeline("predict", "--model", tiny_vit, file)
    assert code == 2
    assert text in err


def test_predict_ignores_hidden_files_links_and_other_extensions(
    tmp_path: Path, tiny_vit: Path, vit_pipeline: Callable[..., tuple[int, str, str]]
) -> None:
    for name in ("a/1.PNG", "a/._1.png", ".hidden/2.png", "3.png.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path, name, encode(PIL.Image.new("RGB", (4, 4))))
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    code, out, _ = vit_pipeline("predict", "--model", tiny_vit, tmp_path)
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith(str(tmp_path))] == [str(tmp_path / "a" / "1.PNG")]


@pytest.mark.parametrize("size", [(1, 1), (700, 1), (1, 700)])
@pytest.mark.parametrize(
    "processor",
    [
        RESIZES,
        BitImageProcessor(size={"shortest_edge": 20}, crop_size={"height": 16, "width": 16}),
    ],
    ids=["resizes", "crops"],
)
def test_an_image_one_pixel_wide_fills_the_input(processor: Any, size: tuple[int, int], tmp_path: Path) -> None:
    batch = batch_of(write(tmp_path, "line.png", encode(PIL.Image.new("RGB", size, (9, 200, 90)))))
    for transform in transforms_of(processor):
        (pixels,) = transform(batch)["pixel_values"]
        assert pixels.shape == (3, 16, 16)
        assert torch.equal(pixels, pixels[:, :1, :1].expand_as(pixels))

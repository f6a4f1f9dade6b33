"""Every odd file is upright and right, or refused with the same reason: in train, evaluate and predict."""

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

from pipeline.arguments.images import AugmentationArguments
from pipeline.data.bad_images import check_images
from pipeline.errors import BadImageError, PipelineError
from pipeline.images.decode import open_image
from pipeline.images.transforms import EvalTransform, TrainTransform
from tests.images.hazards import READABLE, REFUSED, encoded

SQUEEZED: Any = ViTImageProcessor(size={"height": 16, "width": 16})


def transforms_of(processor: Any) -> tuple[EvalTransform, TrainTransform]:
    return EvalTransform(processor), TrainTransform(processor, AugmentationArguments(), seed=5)


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


@pytest.mark.parametrize("what", READABLE)
def test_upright_and_right(what: str, tmp_path: Path) -> None:
    row = READABLE[what]
    file = write(tmp_path, row.name, row.data)
    image = open_image(file, name="image")
    assert image.mode == "RGB"
    shown = np.asarray(image)
    assert shown.shape == row.pixels.shape
    assert np.abs(shown.astype(int) - row.pixels).max() <= row.tolerance
    split = split_of(file)
    assert check_images(split, policy="fail", split_name="train") is split


@pytest.mark.parametrize("what", REFUSED)
def test_refused_by_name_and_reason(what: str, tmp_path: Path) -> None:
    row = REFUSED[what]
    file = write(tmp_path, row.name, row.data)
    with pytest.raises(BadImageError, match=rf"^that file: .*({row.reason})") as caught:
        open_image(file, name="that file")
    assert "\n" not in str(caught.value)
    assert "BytesIO" not in str(caught.value)
    with pytest.raises(PipelineError, match=rf"^train: 1 of 1 images cannot be read: {re.escape(str(file))}: "):
        check_images(split_of(file), policy="fail", split_name="train")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("share", "read"), [(0.6, True), (0.4, False)])
def test_big_images_are_read_without_a_warning_up_to_twice_the_limit(
    share: float, read: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", int(100 * 100 * share))
    file = write(tmp_path, "big.png", encoded(PIL.Image.new("1", (100, 100), 1)))
    if read:
        assert open_image(file, name="big").getpixel((99, 99)) == (255, 255, 255)
    else:
        with pytest.raises(BadImageError, match="decompression bomb"):
            open_image(file, name="big")


# --- one way for all verbs

# What comes out to the last bit, so that a plain PNG of those pixels must give the same.
EXACT = {what: row for what, row in READABLE.items() if row.tolerance == 0 and what != "PNG"}


@pytest.mark.parametrize("what", EXACT)
def test_train_and_evaluate_see_those_pixels(what: str, tmp_path: Path) -> None:
    row = EXACT[what]
    odd = batch_of(write(tmp_path, row.name, row.data))
    plain = batch_of(write(tmp_path, "plain.png", encoded(PIL.Image.fromarray(np.ascontiguousarray(row.pixels)))))
    for transform in transforms_of(SQUEEZED):
        (seen,), (expected,) = (transform(batch)["pixel_values"] for batch in (odd, plain))
        assert seen.shape == (3, 16, 16)
        assert torch.equal(seen, expected)


def test_predict_sees_those_pixels(
    tmp_path: Path, tiny_vit: Path, vit_pipeline: Callable[..., tuple[int, str, str]]
) -> None:
    answers = {}
    for kind in ("odd", "plain"):
        folder = tmp_path / kind
        folder.mkdir()
        for place, row in enumerate(EXACT.values()):
            plain = encoded(PIL.Image.fromarray(np.ascontiguousarray(row.pixels)))
            write(folder, f"{place:02}.png", row.data if kind == "odd" else plain)
        code, out, _ = vit_pipeline("predict", "--model", tiny_vit, folder, "--top_k", 5)
        assert code == 0
        answers[kind] = out.replace(str(folder), "")
    assert answers["odd"] == answers["plain"]
    assert answers["odd"].count(".png") == len(EXACT)
    assert len(set(re.findall(r"\d+\.\d\d %", answers["odd"]))) > 50  # the model tells them apart


@pytest.mark.parametrize("what", ["empty", "JPEG, two bytes short", "PNG, wrong checksum", "14000 x 14000"])
def test_all_verbs_refuse_with_the_same_words(
    what: str, tmp_path: Path, tiny_vit: Path, vit_pipeline: Callable[..., tuple[int, str, str]]
) -> None:
    file = write(tmp_path, REFUSED[what].name, REFUSED[what].data)
    with pytest.raises(BadImageError) as opened:
        open_image(file, name=str(file))
    words = str(opened.value)
    for transform in transforms_of(SQUEEZED):
        with pytest.raises(BadImageError) as caught:
            transform(batch_of(file))
        assert str(caught.value) == words
    with pytest.raises(PipelineError) as caught_by_check:
        check_images(split_of(file), policy="fail", split_name="train")
    assert words in str(caught_by_check.value)
    code, _, err = vit_pipeline("predict", "--model", tiny_vit, file)
    assert code == 2
    assert words in err


def test_predict_lists_what_a_folder_of_images_lists(
    tmp_path: Path, tiny_vit: Path, vit_pipeline: Callable[..., tuple[int, str, str]]
) -> None:
    for name in ("a/1.PNG", "a/._1.png", ".hidden/2.png", "3.png.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path, name, encoded(PIL.Image.new("RGB", (4, 4))))
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    code, out, _ = vit_pipeline("predict", "--model", tiny_vit, tmp_path)
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith(str(tmp_path))] == [str(tmp_path / "a" / "1.PNG")]


@pytest.mark.parametrize("size", [(1, 1), (700, 1), (1, 700)])
@pytest.mark.parametrize(
    "processor",
    [
        SQUEEZED,
        BitImageProcessor(size={"shortest_edge": 20}, crop_size={"height": 16, "width": 16}),
    ],
    ids=["squeezed", "cropped"],
)
def test_a_line_of_pixels_fills_the_input(processor: Any, size: tuple[int, int], tmp_path: Path) -> None:
    batch = batch_of(write(tmp_path, "line.png", encoded(PIL.Image.new("RGB", size, (9, 200, 90)))))
    for transform in transforms_of(processor):
        (pixels,) = transform(batch)["pixel_values"]
        assert pixels.shape == (3, 16, 16)
        assert torch.equal(pixels, pixels[:, :1, :1].expand_as(pixels))

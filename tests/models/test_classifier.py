"""Loading a saved classifier completely or not at all, and its predictions."""

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from PIL.Image import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageClassification,
    BitImageProcessor,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from pipeline.errors import BadImageError, PipelineError
from pipeline.models.classifier import ImageClassifier
from tests.conftest import noisy_image, save_vit

IMAGES = [noisy_image((200, 50, 40), seed, size=(30, 20)) for seed in range(7)]


@pytest.fixture(scope="module")
def classifier(tiny_vit: Path) -> ImageClassifier:
    return ImageClassifier.load(str(tiny_vit))


def ranked_labels(classifier: ImageClassifier, images: list[Image], *, top_k: int) -> list[list[tuple[str, float]]]:
    """Return the labels and probabilities of each image, most likely first."""
    table = classifier.predict(images, top_k=top_k)
    return [list(zip(rows["label"], rows["probability"], strict=True)) for _, rows in table.groupby("image")]


def test_the_model_is_the_saved_one_in_fp32_and_drops_nothing(tiny_vit: Path, classifier: ImageClassifier) -> None:
    saved = AutoModelForImageClassification.from_pretrained(tiny_vit).state_dict()
    loaded = classifier.model.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name].cpu(), saved[name]) for name in saved)
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}
    assert not classifier.model.training


def test_names_come_in_the_order_of_the_labels(tmp_path: Path) -> None:
    names = [f"species {number}" for number in range(12)]
    folder = save_vit(
        tmp_path,
        num_labels=12,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    assert ImageClassifier.load(str(folder)).class_names == names


def test_renamed_classes_are_predicted_and_saved(tiny_vit: Path, photos: Path, tmp_path: Path) -> None:
    model = ImageClassifier.load(tiny_vit)
    names = ["e", "d", "c", "b", "a"]
    before = model.predict(photos / "test" / "red" / "000.png")["label"]
    old = model.class_names
    model.rename_classes(names)
    assert [names[old.index(label)] for label in before] == list(
        model.predict(photos / "test" / "red" / "000.png")["label"]
    )
    model.save(tmp_path / "renamed")
    assert ImageClassifier.load(tmp_path / "renamed").class_names == names


def test_labels_are_ranked_by_probabilities_that_sum_to_one(classifier: ImageClassifier) -> None:
    ranked = ranked_labels(classifier, IMAGES, top_k=5)
    assert len(ranked) == 7
    for answers in ranked:
        scores = [score for _, score in answers]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1.0, abs=1e-6)
        assert {label for label, _ in answers} == set(classifier.class_names)


def test_the_rank_is_that_of_the_logits(classifier: ImageClassifier) -> None:
    pixels = classifier.processor(images=IMAGES, return_tensors="pt")["pixel_values"]
    logits = classifier.logits(pixels)
    assert logits.dtype == np.float32
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    for row, answers in zip(probabilities, ranked_labels(classifier, IMAGES, top_k=2), strict=True):
        best = np.argsort(-row)[:2]
        assert [label for label, _ in answers] == [classifier.class_names[number] for number in best]
        assert [score for _, score in answers] == pytest.approx(row[best].tolist(), abs=1e-6)


def test_more_labels_than_classes_are_all_of_them(classifier: ImageClassifier) -> None:
    assert [len(answers) for answers in ranked_labels(classifier, IMAGES[:2], top_k=99)] == [5, 5]


def test_pixels_that_are_not_rescaled_are_taken_too(tiny_vit: Path, tmp_path: Path) -> None:
    processor = ImageClassifier.load(str(tiny_vit)).processor
    shutil.copytree(tiny_vit, tmp_path / "raw")
    processor.do_rescale = processor.do_normalize = False
    processor.save_pretrained(tmp_path / "raw")
    assert len(ImageClassifier.load(tmp_path / "raw").predict(IMAGES[:1], top_k=1)) == 1


def test_a_missing_model_is_rejected() -> None:
    with pytest.raises(PipelineError, match=r"no model folder \./nowhere"):
        ImageClassifier.load("./nowhere")


def test_a_folder_without_a_model_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"has no config\.json"):
        ImageClassifier.load(str(tmp_path))


@pytest.fixture
def copy(tiny_vit: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_vit, tmp_path / "copy")


def test_a_model_without_image_processor_is_rejected(copy: Path) -> None:
    (copy / "preprocessor_config.json").unlink()
    with pytest.raises(PipelineError, match="copy has no image processor"):
        ImageClassifier.load(str(copy))


def test_a_model_without_weights_is_rejected(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(PipelineError, match=r"copy has no weights \(model\.safetensors\)"):
        ImageClassifier.load(str(copy))


def test_a_model_with_corrupt_weights_is_rejected(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(PipelineError, match=r"the weights of .*copy are corrupt .*header"):
        ImageClassifier.load(str(copy))


def test_a_backbone_without_head_is_rejected_with_the_command_to_train_it(copy: Path) -> None:
    ViTModel(ViTConfig.from_pretrained(copy)).save_pretrained(copy)
    with pytest.raises(PipelineError, match="has no trained head: fine-tune it first with `train --model_name_or_path"):
        ImageClassifier.load(str(copy))


def test_a_model_that_lacks_a_backbone_weight_is_rejected(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    lost = next(name for name in weights if "layer.1." in name)
    save_file({k: v for k, v in weights.items() if k != lost}, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PipelineError, match=r"copy lacks 1 weights of its backbone, first vit\.layers\.1\."):
        ImageClassifier.load(str(copy))


def test_a_processor_that_keeps_the_aspect_ratio_is_rejected(copy: Path) -> None:
    BitImageProcessor(size={"shortest_edge": 16}, do_center_crop=False).save_pretrained(copy)
    with pytest.raises(PipelineError, match="copy makes images of different sizes"):
        ImageClassifier.load(str(copy))


def test_a_model_with_a_head_of_another_shape_is_refused(copy: Path) -> None:
    ViTForImageClassification(ViTConfig.from_pretrained(copy, num_labels=3)).save_pretrained(copy.parent / "three")
    shutil.copy(copy.parent / "three" / "model.safetensors", copy)
    with pytest.raises(PipelineError, match="copy has no trained head"):
        ImageClassifier.load(str(copy))


def test_predict_takes_paths_folders_images_and_arrays(classifier: ImageClassifier, photos: Path) -> None:
    files = sorted((photos / "test" / "red").iterdir())
    by_path = classifier.predict(files, top_k=2)
    assert list(by_path.columns) == ["image", "rank", "label", "probability"]
    assert by_path["image"].tolist() == [str(file) for file in files for _ in range(2)]
    assert by_path["rank"].tolist() == [1, 2] * len(files)
    by_folder = classifier.predict(photos / "test" / "red", top_k=2)
    assert by_folder.equals(by_path)
    with PIL.Image.open(files[0]) as image:
        before = image.tobytes()
        in_memory = classifier.predict([image, np.asarray(image)], top_k=2)
        assert image.tobytes() == before
    assert in_memory["image"].tolist() == [0, 0, 1, 1]
    for place in (0, 1):
        rows = in_memory[in_memory["image"] == place]
        assert rows["label"].tolist() == by_path["label"].tolist()[:2]
        assert rows["probability"].tolist() == pytest.approx(by_path["probability"].tolist()[:2], abs=1e-5)


def test_predict_names_or_skips_an_image_that_cannot_be_read(
    classifier: ImageClassifier, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    good = next((photos / "test" / "red").iterdir())
    with pytest.raises(BadImageError, match=r"bad\.jpg: .*\nfix or remove the image, or pass --bad_images skip"):
        classifier.predict([tmp_path / "bad.jpg", good])
    table = classifier.predict([tmp_path / "bad.jpg", good], top_k=1, bad_images="skip")
    assert table["image"].tolist() == [str(good)]
    assert table["label"].tolist() == classifier.predict(good, top_k=1)["label"].tolist()
    assert f"skipped 1 image that cannot be read:\n  {tmp_path / 'bad.jpg'}: not an image but an HTML" in caplog.text
    with pytest.raises(PipelineError, match=r"no image found at .*nowhere: pass image files"):
        classifier.predict(tmp_path / "nowhere")


def test_the_head_and_the_input_size_are_found_once(classifier: ImageClassifier) -> None:
    assert classifier.head is classifier.model.get_submodule("classifier")
    assert classifier.head_names == {"classifier.weight", "classifier.bias"}
    assert classifier.input_size == (16, 16)
    assert classifier.head_names is classifier.head_names

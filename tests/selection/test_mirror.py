"""`--auto` chooses no horizontal flips for images that mean something else when they are mirrored."""

import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from pipeline.arguments.data import DataArguments
from pipeline.arguments.model import ModelArguments
from pipeline.arguments.settings import Settings
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.data.sources import load_splits
from pipeline.models.build import build_classifier
from pipeline.models.inference import LoaderOptions
from pipeline.probing.features import extract
from pipeline.selection.frozen import fit_probes
from pipeline.selection.mirror import choose_without_flips
from tests.benchmarks.auto import halve_validation
from tests.conftest import SHARED, save_vit


def save_images(root: Path, *, sided: bool) -> Settings:
    """Write noisy images of two classes, in which each patch becomes brighter to one side or to the opposite one."""
    rng = np.random.default_rng(0)
    for split, images in (("train", 12), ("validation", 20)):
        for number, name in enumerate(("first", "second")):
            folder = root / "data" / split / name
            folder.mkdir(parents=True)
            for image in range(images):
                pixels = rng.integers(0, 60, (16, 16, 3), dtype=np.uint8)
                brighter = np.broadcast_to(np.arange(16)[:: 1 - 2 * number] % 8 * 20, (16, 16)).astype(np.uint8)
                pixels += (brighter if sided else brighter.T)[..., None]
                PIL.Image.fromarray(pixels).save(folder / f"{image}.png")
    return Settings(
        model=ModelArguments(model_name_or_path=str(save_vit(root / "vit"))),
        data=DataArguments(dataset_name=str(root / "data")),
        trainer=FineTuningArguments(output_dir=str(root / "run"), precision="fp32", dataloader_num_workers=0),
    )


@pytest.mark.parametrize("sided", [True, False])
def test_flips_are_not_used_only_if_they_exchange_classes(tmp_path: Path, sided: bool) -> None:
    settings = save_images(tmp_path, sided=sided)
    splits = load_splits(settings.data)
    probe = fit_probes(splits, settings)[0]
    choices = choose_without_flips(probe, splits, settings)
    assert [choice.word for choice in choices] == (["--hflip=0.0", "--crop_scale=0.7"] if sided else [])
    if sided:
        reason = r"linear probes recognize ([\d.]+)% of 64 images, and ([\d.]+)% of them mirrored"
        ((before, after),) = re.findall(reason, choices[0].reason)
        assert float(before) > 75
        assert float(after) < 25


@pytest.mark.skipif(not (SHARED / "vit-tiny-imagenet-32px").is_dir(), reason="needs the shared photographs and ViT")
@pytest.mark.parametrize("data", ["sign-digits-64px", "flowers102-64px"])
def test_200_validation_images_tell_hands_from_flowers(tmp_path: Path, data: str) -> None:
    settings = Settings(
        model=ModelArguments(model_name_or_path=str(SHARED / "vit-tiny-imagenet-32px"), image_size=32),
        data=DataArguments(dataset_name=str(SHARED / data), max_train_samples=600),
        trainer=FineTuningArguments(output_dir=str(tmp_path / "run"), precision="fp32", dataloader_num_workers=0),
        given=frozenset({"image_size"}),  # so that only one probe is fitted
    )
    splits = load_splits(settings.data)
    # Half of each class; with the hands of this half, the accuracies differ by less than two standard errors.
    splits["validation"] = halve_validation(splits)["validation"].select(range(200))
    choices = choose_without_flips(fit_probes(splits, settings)[0], splits, settings)
    assert [choice.flag for choice in choices] == (["hflip", "crop_scale"] if data == "sign-digits-64px" else [])


def test_mirrored_features_are_those_of_mirrored_images(tmp_path: Path) -> None:
    settings = save_images(tmp_path, sided=True)
    splits = load_splits(settings.data)
    classifier = build_classifier(settings.model, class_names=["first", "second"], seed=0)
    options = LoaderOptions.of(settings.trainer)

    def features(*, mirrored: bool) -> np.ndarray:
        found = extract(classifier, {"validation": splits["validation"]}, options, precision="fp32", mirrored=mirrored)
        return found["validation"].head

    plain, mirrored = features(mirrored=False), features(mirrored=True)
    for file in (tmp_path / "data" / "validation").rglob("*.png"):
        PIL.Image.open(file).transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT).save(file)
    splits = load_splits(settings.data)
    np.testing.assert_allclose(features(mirrored=False), mirrored, atol=1e-6)
    assert np.abs(plain - mirrored).max() > 1e-3
    np.testing.assert_array_equal(features(mirrored=True), features(mirrored=True))  # from the cache

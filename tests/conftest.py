"""Small real parts for every test: class folders of images, a two-layer ViT on disk, no network."""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before the first import of a library that reads it
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import datasets
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import (
    SwiftFormerConfig,
    SwiftFormerForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from pipeline import cli
from pipeline.signals import STOPPING

# Started with nohup or in the background, the tests ignore signals, and so would the programs that they start.
for number in STOPPING:
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

torch.set_num_threads(1)  # results depend on the number of threads, and the models are tiny

# Real photographs and a real small ViT, which are not part of the project. Tests that need them are skipped without.
SHARED = Path(os.environ.get("VIT_PIPELINE_SHARED", Path(__file__).parents[2] / "shared"))

COLORS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow connections to loopback addresses only."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and not str(address[0]).startswith(("127.", "::1", "localhost")):
            raise OSError(f"tests may not connect to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the cache of `datasets` into the temporary folder of the tests."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")


@pytest.fixture(autouse=True)
def quiet_transformers() -> None:
    """Silence transformers again: a Trainer sets its verbosity for the process, as --log_level says."""
    transformers.logging.set_verbosity_error()


def noisy_image(color: tuple[int, int, int], seed: int, size: tuple[int, int] = (20, 16)) -> Image.Image:
    """Return a noisy patch of one color: easy to learn, and different for each seed."""
    noise = np.random.default_rng(seed).normal(0, 25, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(color) + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes class folders, below split folders if counts are given by split name."""

    def make(**counts: int) -> Path:
        root = tmp_path_factory.mktemp("photos")
        for number, (split, count) in enumerate((counts or {"": 12}).items()):
            for c, (name, color) in enumerate(COLORS.items()):
                (root / split / name).mkdir(parents=True)
                for i in range(count):
                    seed = number * 10_000 + c * 1000 + i
                    noisy_image(color, seed).save(root / split / name / f"{i:03}.png")
        return root

    return make


@pytest.fixture(scope="session")
def photos(make_folder: Callable[..., Path]) -> Path:
    """A folder with three colors as classes, each with 12 train, 6 validation and 6 test images."""
    return make_folder(train=12, validation=6, test=6)


def save_vit(folder: Path, *, num_labels: int = 5, **changes: Any) -> Path:
    """Save a two-layer ViT with its image processor, as a checkpoint of another task."""
    torch.manual_seed(7)
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 16,
        "patch_size": 4,
        "num_labels": num_labels,
    }
    ViTForImageClassification(ViTConfig(**shape | changes)).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    ViTImageProcessor(size=size, image_mean=[0.4] * 3, image_std=[0.3] * 3, resample=3).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT of 2 layers at 16 px with a head for 5 other classes."""
    return save_vit(tmp_path_factory.mktemp("tiny-vit"))


@pytest.fixture(scope="session")
def two_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SwiftFormer at 64 px: its logits are the mean of those of two heads, so no linear probe can replace them."""
    folder = tmp_path_factory.mktemp("swiftformer")
    torch.manual_seed(7)
    network = SwiftFormerConfig(image_size=64, depths=[1] * 4, embed_dims=[8] * 4)
    SwiftFormerForImageClassification(network).save_pretrained(folder)
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.fixture
def vit_pipeline(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs a command line in this process and returns exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="session")
def train_flags(tiny_vit: Path, photos: Path) -> list[str]:
    """Flags of a run of a few seconds that learns the three colors."""
    return [
        f"--model_name_or_path={tiny_vit}",
        f"--dataset_name={photos}",
        "--num_train_epochs=3",
        "--learning_rate=3e-3",
        "--per_device_train_batch_size=6",
        "--precision=fp32",
        "--dataloader_num_workers=0",
    ]


@pytest.fixture(scope="session")
def probe_flags(train_flags: list[str]) -> list[str]:
    """Flags of a run with `--strategy head`, which rejects those of the training loop."""
    loop = ("--num_train_epochs", "--learning_rate", "--per_device_train_batch_size")
    return [*(flag for flag in train_flags if not flag.startswith(loop)), "--strategy=head"]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, train_flags: list[str]) -> Path:
    """A finished run, shared by the tests that only read it."""
    folder = tmp_path_factory.mktemp("runs") / "colors"
    assert cli.main(["train", *train_flags, f"--output_dir={folder}"]) == 0
    return folder

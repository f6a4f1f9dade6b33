"""The real Hub clients with a fake Hub on the loopback interface: datasets and models are downloaded, runs are pushed.

All of it happens in one subprocess, because the clients read the address of the Hub when they are imported.
"""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from pipeline.evaluation.predictions import read_predictions
from pipeline.hub import missing_right
from pipeline.runs.files import read_json
from pipeline.runs.folder import CARD, PREDICTIONS, PUBLISHED, RECIPE, RECORD, RESULTS, TRAINER_STATE
from pipeline.runs.publish import published_files
from tests.conftest import COLORS, noisy_image
from tests.fakes.hub import FakeHub

CLIENT = """
import json, os, sys
from pathlib import Path
import numpy as np
import pyarrow.parquet
from pipeline import cli

run, codes, opened = Path(sys.argv[1]), {}, []
original = pyarrow.parquet.ParquetFile
def recording(source, **options):  # the predictions are read without such options
    opened.extend([options["pre_buffer"]] if "pre_buffer" in options else [])
    return original(source, **options)
pyarrow.parquet.ParquetFile = recording
flags = ["--model_name_or_path=tester/tiny-vit", "--dataset_name=tester/colors", "--num_train_epochs=2",
         "--learning_rate=3e-3", "--precision=fp32", "--dataloader_num_workers=0", f"--output_dir={run}"]
codes["train"] = cli.main(["train", *flags, "--push_to_hub", "--hub_model_id=tester/pushed"])
print("pre_buffer:", opened, file=sys.stderr)
codes["push elsewhere"] = cli.main(["train", *flags, "--push_to_hub", "--hub_model_id=stranger/vit",
                                      f"--output_dir={run}-x"])
codes["push"] = cli.main(["push", f"--model={run}", "--hub_model_id=tester/again"])
codes["evaluate"] = cli.main(["evaluate", "--model=tester/pushed", "--dataset_name=tester/colors",
                                f"--output_dir={run}-scored"])
codes["pickle only"] = cli.main(["train", *flags, "--model_name_or_path=tester/pickled", "--max_steps=1",
                                   f"--output_dir={run}-p"])
codes["stream"] = cli.main(["train", *flags, "--dataset_name=tester/streamed", "--streaming",
                              f"--output_dir={run}-streamed"])
codes["missing model"] = cli.main(["train", *flags, "--model_name_or_path=tester/none", f"--output_dir={run}-x"])
codes["missing data"] = cli.main(["train", *flags, "--dataset_name=tester/none", f"--output_dir={run}-x"])
codes["missing revision"] = cli.main(["train", *flags, "--dataset_revision=v9", f"--output_dir={run}-x"])
os.environ["HF_TOKEN"] = "hf_wrong"
codes["wrong token"] = cli.main(["push", f"--model={run}", "--hub_model_id=tester/other"])
print(json.dumps(codes))
"""

# What `push_to_hub` of `datasets` writes.
STREAMED_CARD = """---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': blue
          '1': green
          '2': red
  splits:
  - name: train
    num_bytes: 1
    num_examples: 36
  - name: validation
    num_bytes: 1
    num_examples: 18
  - name: test
    num_bytes: 1
    num_examples: 18
---
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, tiny_vit: Path) -> Iterator[FakeHub]:
    """A Hub with a small ViT, and a parquet dataset with the file layout of the Flowers-102 dataset."""
    with FakeHub() as hub:
        for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
            hub.put("model", "tester/tiny-vit", name, (tiny_vit / name).read_bytes())
        hub.put("model", "tester/tiny-vit", "pytorch_model.bin", b"most repositories have both formats")
        pickled = io.BytesIO()
        torch.save(load_file(tiny_vit / "model.safetensors"), pickled)
        hub.put("model", "tester/pickled", "pytorch_model.bin", pickled.getvalue())
        for name in ("config.json", "preprocessor_config.json"):
            hub.put("model", "tester/pickled", name, (tiny_vit / name).read_bytes())
        for name in ("tf_model.h5", "training_args.bin"):
            hub.put("model", "tester/pickled", name, b"not needed")
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(COLORS))})
        for number, (split, count) in enumerate({"train": 12, "validation": 6, "test": 6}.items()):
            rows: dict[str, list[Any]] = {"image": [], "label": []}
            for label, color in enumerate(COLORS.values()):
                for i in range(count):
                    content = io.BytesIO()
                    noisy_image(color, 10_000 * number + 100 * label + i).save(content, "PNG")
                    rows["image"].append({"bytes": content.getvalue(), "path": f"image_{i}.png"})
                    rows["label"].append(label)
            file = tmp_path_factory.mktemp("parquet") / "part.parquet"
            datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
            hub.put("dataset", "tester/colors", f"data/{split}-00000-of-00001.parquet", file.read_bytes())
            hub.put("dataset", "tester/streamed", f"data/{split}-00000-of-00001.parquet", file.read_bytes())
        hub.put("dataset", "tester/streamed", "README.md", STREAMED_CARD.encode())
        yield hub


@pytest.fixture(scope="module")
def pushed(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int], str]:
    """The run folder, the exit codes and the standard error of the subprocess."""
    root = tmp_path_factory.mktemp("client")
    environment = os.environ | hub.env(root / "hf") | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", CLIENT, str(root / "run")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return root / "run", json.loads(process.stdout.splitlines()[-1]), process.stderr


def test_every_command_has_the_expected_exit_code(pushed: tuple[Path, dict[str, int], str]) -> None:
    _, codes, _ = pushed
    successful = ("train", "push", "evaluate", "pickle only", "stream")
    assert codes == {name: 0 if name in successful else 2 for name in codes}
    assert len(codes) == 10


def test_no_complete_dataset_file_is_kept_in_memory(pushed: tuple[Path, dict[str, int], str]) -> None:
    _, _, stderr = pushed
    assert "pre_buffer: [False, False, False]\n" in stderr


def test_pickled_weights_are_downloaded_only_without_safetensors(
    hub: FakeHub, pushed: tuple[Path, dict[str, int], str]
) -> None:
    downloaded = {
        path.partition("/resolve/")[0].strip("/") + ":" + Path(path).name
        for _, path, _ in hub.requests
        if "/resolve/" in path
    }
    assert "tester/tiny-vit:model.safetensors" in downloaded
    assert "tester/tiny-vit:pytorch_model.bin" not in downloaded
    assert {name for name in downloaded if name.startswith("tester/pickled:")} == {
        "tester/pickled:config.json", "tester/pickled:preprocessor_config.json", "tester/pickled:pytorch_model.bin",
    }  # fmt: skip
    assert "tester/pickled has pickled weights (.bin); loading them with weights_only=True" in pushed[2]


def test_the_repository_has_exactly_the_published_files(hub: FakeHub, pushed: tuple[Path, dict[str, int], str]) -> None:
    run, _, _ = pushed
    files = hub.files("model", "tester/pushed")
    assert files.keys() == set(published_files(run)) >= set(PUBLISHED)
    for name in {*files} - {CARD, RECIPE}:  # The second push rewrote the card, which names its repository.
        assert files[name] == (run / name).read_bytes(), name
    everything = b"".join(content for name, content in files.items() if name != "model.safetensors")
    assert str(run.parent).encode() not in everything
    assert hub.token.encode() not in everything
    assert hub.leaked_tokens == []


def test_the_token_is_in_no_file_and_in_no_line(hub: FakeHub, pushed: tuple[Path, dict[str, int], str]) -> None:
    run, _, stderr = pushed
    assert hub.token not in stderr
    files = [file for file in run.parent.rglob("*") if file.is_file()]
    assert len(files) > 50
    assert [file for file in files if hub.token.encode() in file.read_bytes()] == []


def test_the_card_names_repository_base_model_dataset_and_results(
    hub: FakeHub, pushed: tuple[Path, dict[str, int], str]
) -> None:
    run, _, _ = pushed
    results = read_json(run / RESULTS)
    for repo in ("tester/pushed", "tester/again"):
        text = hub.files("model", repo)[CARD].decode()
        data: Any = ModelCard(text).data
        assert f'model="{repo}"' in text
        assert "ore information needed" not in text
        assert data.base_model == "tester/tiny-vit"
        assert data.datasets == "tester/colors"
        test = next(r for r in data.eval_results or [] if r.dataset_split == "test")
        assert test.metric_value == pytest.approx(results["test_accuracy"], abs=1e-4)
        assert (test.dataset_type, test.metric_type) == ("tester/colors", "accuracy")


def test_the_downloaded_model_gives_the_same_logits(pushed: tuple[Path, dict[str, int], str]) -> None:
    run, _, _ = pushed
    own, names = read_predictions(run / PREDICTIONS)
    scored, same_names = read_predictions(Path(f"{run}-scored") / PREDICTIONS)
    assert names == same_names == list(COLORS)
    assert scored[0].split == own[1].split == "test"
    np.testing.assert_allclose(scored[0].logits, own[1].logits, atol=1e-5)


def test_a_streamed_run_counts_its_steps_from_the_dataset_card(
    pushed: tuple[Path, dict[str, int], str],
) -> None:
    run, _, stderr = pushed
    streamed = Path(f"{run}-streamed")
    assert "streaming tester/streamed: 36 training images" in stderr
    assert read_json(streamed / TRAINER_STATE)["max_steps"] == 2 * 3  # 2 epochs of 36 images, 16 images per step
    assert read_json(streamed / RECORD)["data"]["samples"] == {"train": 36, "validation": 18, "test": 18}
    assert read_json(streamed / RESULTS)["test_samples"] == 18


def test_errors_of_the_hub_have_a_remedy(
    pushed: tuple[Path, dict[str, int], str],
) -> None:
    _, _, stderr = pushed
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 5
    assert "cannot push to stranger/vit, because you are logged in as tester" in errors[0]
    assert "model tester/none not found on the Hub, and there is no such local folder: check the name" in errors[1]
    assert "dataset tester/none not found on the Hub, and there is no such local folder: check the name" in errors[2]
    assert "dataset tester/colors at revision v9 not found on the Hub" in errors[3]
    assert "run `hf auth login` with a token that has write access" in errors[4]


USER = {
    "type": "user",
    "name": "ann",
    "orgs": [{"name": "lab", "roleInOrg": "write"}, {"name": "club", "roleInOrg": "read"}],
}


def identity(role: str, *scopes: tuple[str, str]) -> dict[str, Any]:
    """Return what the Hub answers about a token of Ann's, whose scopes are names and permissions."""
    scoped = [{"entity": {"name": name}, "permissions": [permission]} for name, permission in scopes]
    token = {"role": role} | ({"fineGrained": {"scoped": scoped}} if scoped else {})
    return USER | {"auth": {"accessToken": token}}


@pytest.mark.parametrize(
    ("who", "repo_id", "problem"),
    [
        (identity("write"), "ann/vit", None),
        (identity("write"), "vit", None),
        (identity("write"), "lab/vit", None),
        (identity("write"), "club/vit", "you may only read in club: use --hub_model_id ann/NAME"),
        (identity("write"), "team/vit", "you are logged in as ann, who is not a member of team"),
        (identity("read"), "ann/vit", "your token has no write access: create a token with write access"),
        (identity("fineGrained", ("ann", "repo.write")), "ann/vit", None),
        (identity("fineGrained", ("ann/vit", "repo.write")), "ann/vit", None),
        (
            identity("fineGrained", ("ann", "repo.content.read")),
            "ann/vit",
            "your fine-grained token has no write access",
        ),
        (
            identity("fineGrained", ("lab", "repo.write")),
            "ann/vit",
            "your fine-grained token has no write access to ann",
        ),
        ({"type": "org", "name": "lab"}, "lab/vit", None),
    ],
)
def test_a_missing_right_is_found_before_training(who: dict[str, Any], repo_id: str, problem: str | None) -> None:
    found = missing_right(who, repo_id)
    assert (found is None) == (problem is None)
    assert found is None or found.startswith(str(problem))

"""The real clients against a loopback Hub: a data set and a model come from it, a finished run goes to it.

One process does it all, because the clients read the Hub's address when they are imported.
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
from pipeline.runs.files import read_json
from pipeline.runs.folder import CARD, PREDICTIONS, PUBLISHED, RECIPE, RECORD, RESULTS, TRAINER_STATE
from tests.conftest import COLOURS, draw_image
from tests.fakes.hub import FakeHub

CLIENT = """
import json, os, sys
from pathlib import Path
import numpy as np
import pyarrow.dataset
from pipeline import cli

run, answers, scans = Path(sys.argv[1]), {}, []
real = pyarrow.dataset.ParquetFileFormat
scanned = lambda **by: scans.append(by["default_fragment_scan_options"]) or real(**by)
pyarrow.dataset.ParquetFileFormat = scanned
flags = ["--model_name_or_path=tester/tiny-vit", "--dataset_name=tester/colours", "--num_train_epochs=2",
         "--learning_rate=3e-3", "--precision=fp32", "--dataloader_num_workers=0", f"--output_dir={run}"]
answers["train"] = cli.main(["train", *flags, "--push_to_hub", "--hub_model_id=tester/pushed"])
print("held whole:", [scan.pre_buffer for scan in scans], file=sys.stderr)
answers["push"] = cli.main(["push", f"--model={run}", "--hub_model_id=tester/again"])
answers["evaluate"] = cli.main(["evaluate", "--model=tester/pushed", "--dataset_name=tester/colours",
                                f"--output_dir={run}-scored"])
answers["pickle only"] = cli.main(["train", *flags, "--model_name_or_path=tester/pickled", "--max_steps=1",
                                   f"--output_dir={run}-p"])
answers["stream"] = cli.main(["train", *flags, "--dataset_name=tester/streamed", "--streaming",
                              f"--output_dir={run}-streamed"])
answers["missing model"] = cli.main(["train", *flags, "--model_name_or_path=tester/none", f"--output_dir={run}-x"])
answers["missing data"] = cli.main(["train", *flags, "--dataset_name=tester/none", f"--output_dir={run}-x"])
answers["missing revision"] = cli.main(["train", *flags, "--dataset_revision=v9", f"--output_dir={run}-x"])
os.environ["HF_TOKEN"] = "hf_wrong"
answers["wrong token"] = cli.main(["push", f"--model={run}", "--hub_model_id=tester/other"])
print(json.dumps(answers))
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
    """A Hub with a parquet data set laid out like the real Flowers-102 one, and a small ViT."""
    with FakeHub() as hub:
        for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
            hub.put("model", "tester/tiny-vit", name, (tiny_vit / name).read_bytes())
        hub.put("model", "tester/tiny-vit", "pytorch_model.bin", b"as in most repositories, beside the safetensors")
        pickled = io.BytesIO()
        torch.save(load_file(tiny_vit / "model.safetensors"), pickled)
        hub.put("model", "tester/pickled", "pytorch_model.bin", pickled.getvalue())
        for name in ("config.json", "preprocessor_config.json"):
            hub.put("model", "tester/pickled", name, (tiny_vit / name).read_bytes())
        for name in ("tf_model.h5", "training_args.bin"):
            hub.put("model", "tester/pickled", name, b"of no use here")
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(COLOURS))})
        for number, (split, count) in enumerate({"train": 12, "validation": 6, "test": 6}.items()):
            rows: dict[str, list[Any]] = {"image": [], "label": []}
            for label, colour in enumerate(COLOURS.values()):
                for i in range(count):
                    content = io.BytesIO()
                    draw_image(colour, 10_000 * number + 100 * label + i).save(content, "PNG")
                    rows["image"].append({"bytes": content.getvalue(), "path": f"image_{i}.png"})
                    rows["label"].append(label)
            file = tmp_path_factory.mktemp("parquet") / "part.parquet"
            datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
            hub.put("dataset", "tester/colours", f"data/{split}-00000-of-00001.parquet", file.read_bytes())
            hub.put("dataset", "tester/streamed", f"data/{split}-00000-of-00001.parquet", file.read_bytes())
        hub.put("dataset", "tester/streamed", "README.md", STREAMED_CARD.encode())
        yield hub


@pytest.fixture(scope="module")
def pushed(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int], str]:
    """The run folder, the exit codes, and what was said, of one process that did it all."""
    root = tmp_path_factory.mktemp("client")
    environment = os.environ | hub.env(root / "hf") | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, str(root / "run")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return root / "run", json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_every_verb_ends_as_it_should(pushed: tuple[Path, dict[str, int], str]) -> None:
    _, codes, _ = pushed
    good = ("train", "push", "evaluate", "pickle only", "stream")
    assert codes == {name: 0 if name in good else 2 for name in codes}
    assert len(codes) == 9


def test_no_file_of_a_data_set_is_held_whole(pushed: tuple[Path, dict[str, int], str]) -> None:
    _, _, said = pushed
    assert "held whole: [False, False, False]\n" in said


def test_a_pickle_is_fetched_only_where_there_are_no_safetensors(
    hub: FakeHub, pushed: tuple[Path, dict[str, int], str]
) -> None:
    fetched = {
        path.partition("/resolve/")[0].strip("/") + ":" + Path(path).name
        for _, path, _ in hub.requests
        if "/resolve/" in path
    }
    assert "tester/tiny-vit:model.safetensors" in fetched
    assert "tester/tiny-vit:pytorch_model.bin" not in fetched
    assert {name for name in fetched if name.startswith("tester/pickled:")} == {
        "tester/pickled:config.json", "tester/pickled:preprocessor_config.json", "tester/pickled:pytorch_model.bin",
    }  # fmt: skip
    assert "tester/pickled: its weights are a pickle (.bin), read with weights_only" in pushed[2]


def test_the_repository_holds_the_listed_files_and_no_others(
    hub: FakeHub, pushed: tuple[Path, dict[str, int], str]
) -> None:
    run, _, _ = pushed
    files = hub.files("model", "tester/pushed")
    assert files.keys() == set(PUBLISHED)
    for name in {*PUBLISHED} - {
        CARD,
        RECIPE,
    }:  # the card names its repository: the last was another
        assert files[name] == (run / name).read_bytes(), name
    everything = b"".join(content for name, content in files.items() if name != "model.safetensors")
    assert str(run.parent).encode() not in everything
    assert hub.token.encode() not in everything
    assert hub.leaked_tokens == []


def test_the_card_names_its_repository_base_and_data_with_real_results(
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
        assert data.datasets == "tester/colours"
        test = next(r for r in data.eval_results or [] if r.dataset_split == "test")
        assert test.metric_value == pytest.approx(results["test_accuracy"], abs=1e-4)
        assert (test.dataset_type, test.metric_type) == ("tester/colours", "accuracy")


def test_the_model_from_the_hub_gives_the_same_logits(pushed: tuple[Path, dict[str, int], str]) -> None:
    run, _, _ = pushed
    own, names = read_predictions(run / PREDICTIONS)
    scored, same_names = read_predictions(Path(f"{run}-scored") / PREDICTIONS)
    assert names == same_names == list(COLOURS)
    assert scored[0].split == own[1].split == "test"
    np.testing.assert_allclose(scored[0].logits, own[1].logits, atol=1e-5)


def test_a_streamed_run_takes_the_steps_that_the_card_lets_it_count(
    pushed: tuple[Path, dict[str, int], str],
) -> None:
    run, _, said = pushed
    streamed = Path(f"{run}-streamed")
    assert "tester/streamed is streamed: 36 train images" in said
    assert read_json(streamed / TRAINER_STATE)["max_steps"] == 2 * 3  # epochs of 36 images, 16 a step
    assert read_json(streamed / RECORD)["data"]["samples"] == {"train": 36, "validation": 18, "test": 18}
    assert read_json(streamed / RESULTS)["test_samples"] == 18


def test_what_is_missing_or_refused_is_named_with_the_remedy(
    pushed: tuple[Path, dict[str, int], str],
) -> None:
    _, _, said = pushed
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 4
    assert "no model tester/none on the Hub" in errors[0]
    assert "no data set tester/none on the Hub" in errors[1]
    assert "tester/colours with revision v9" in errors[2]
    assert "hf auth login" in errors[3]

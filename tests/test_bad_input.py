"""Every mistake of a newcomer ends with exit code 2 and one line per problem, with the remedy."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, ViTImageProcessor
from transformers.utils.import_utils import is_timm_available

from tests.conftest import noisy_image, save_vit
from tests.models.families import save

Run = Callable[..., tuple[int, str, str]]
Refuse = Callable[..., str]


@pytest.fixture
def refused(vit_pipeline: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Run a command line that must be rejected, and return its message. It may not create any file."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        code, out, err = vit_pipeline(*words)
        assert code == 2, (code, out, err)
        message = err[err.index("error: ") :].removeprefix("error: ")
        assert 1 <= len(message.splitlines()) <= 3, message
        assert "Traceback" not in message
        assert sorted(tmp_path.rglob("*")) == before
        return message

    return run


@pytest.fixture
def train(refused: Refuse, tiny_vit: Path, photos: Path) -> Refuse:
    """Run `train` on valid data with a valid model, except for the given words."""

    def run(*words: object) -> str:
        return refused(
            "train",
            f"--model_name_or_path={tiny_vit}",
            f"--dataset_name={photos}",
            "--output_dir=run",
            *words,
        )

    return run


def test_unknown_verb(refused: Refuse) -> None:
    assert "did you mean 'train'?" in refused("tran")


def test_unknown_flag(train: Refuse) -> None:
    assert "unknown flag --learning_rat (did you mean '--learning_rate'?)" in train("--learning_rat", "1")


def test_removed_flag(train: Refuse) -> None:
    assert "use --eval_strategy" in train("--evaluation_strategy", "epoch")


def test_wrong_type_in_a_flag(train: Refuse) -> None:
    assert "--seed lucky is not an integer" in train("--seed=lucky")


def test_wrong_type_in_a_recipe(train: Refuse, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("num_train_epochs: many\n")
    assert "mine.yaml: num_train_epochs many is not a number" in train("--config=mine.yaml")


def test_unknown_recipe(train: Refuse) -> None:
    message = train("--config=flowers-102")
    assert "unknown recipe or file 'flowers-102'" in message
    assert "synthetic-flowers" in message


def test_no_data(refused: Refuse) -> None:
    assert "--dataset_name FOLDER" in refused("train")


def test_a_folder_that_does_not_exist(train: Refuse) -> None:
    assert "./photo" in train("--dataset_name=./photo")


def test_a_folder_without_images(train: Refuse, tmp_path: Path) -> None:
    (tmp_path / "empty" / "rose").mkdir(parents=True)
    assert "empty contains no supported images" in train("--dataset_name=empty")


def test_a_missing_column(train: Refuse, tmp_path: Path) -> None:
    noisy_image((200, 0, 0), 1).save(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text("file,kind,color\na.png,rose,red\na.png,tulip,red\n")
    message = train(f"--dataset_name={tmp_path}")
    assert "file, kind, color" in message
    assert "--label_column_name" in message
    message = train(f"--dataset_name={tmp_path}", "--label_column_name=knd")
    assert "--label_column_name: column 'knd' not found" in message


def test_one_class_only(train: Refuse, tmp_path: Path) -> None:
    (tmp_path / "one" / "rose").mkdir(parents=True)
    for i in range(4):
        noisy_image((200, 0, 0), i).save(tmp_path / "one" / "rose" / f"{i}.png")
    assert "only one class, 'rose'" in train("--dataset_name=one")


def test_a_class_too_small_to_split(train: Refuse, tmp_path: Path) -> None:
    for name, count in {"rose": 4, "tulip": 1}.items():
        (tmp_path / "few" / name).mkdir(parents=True)
        for i in range(count):
            noisy_image((200, 0, 0), i).save(tmp_path / "few" / name / f"{i}.png")
    message = train("--dataset_name=few")
    assert "'tulip'" in message
    assert "add images" in message


def test_a_corrupt_image(train: Refuse, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "broken")
    bad = tmp_path / "broken" / "train" / "red" / "003.png"
    bad.write_bytes(bad.read_bytes()[:200])
    message = train("--dataset_name=broken")
    assert "003.png" in message
    assert "--bad_images skip" in message


@pytest.mark.parametrize("name", ["google/no-such-model", "./no-such-folder"])
def test_a_model_that_does_not_exist_or_cannot_be_reached(train: Refuse, name: str) -> None:
    message = train(f"--model_name_or_path={name}")
    assert name in message
    assert "network" in message or "no model folder" in message


def test_a_hub_dataset_without_network(train: Refuse) -> None:
    message = train("--dataset_name=nobody/no-flowers")
    assert "nobody/no-flowers" in message
    assert "check the network" in message


def test_a_model_without_image_processor(train: Refuse, tiny_vit: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_vit, tmp_path / "bare")
    (tmp_path / "bare" / "preprocessor_config.json").unlink()
    message = train("--model_name_or_path=bare")
    assert "bare has no image processor" in message
    assert "add the preprocessor_config.json of its original model" in message
    assert "or use a model that has one" in message


def test_a_model_without_weights(train: Refuse, tiny_vit: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_vit, tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    assert "--from_scratch" in train("--model_name_or_path=bare")


def test_a_model_that_is_not_for_images(train: Refuse, tiny_vit: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_vit, tmp_path / "text")
    (tmp_path / "text" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    message = train("--model_name_or_path=text")
    assert (
        "text has the model type bert, for which transformers has no image classifier; its main input is input_ids"
        in message
    )


def test_a_timm_name_that_is_not_a_hub_id(train: Refuse) -> None:
    message = train("--model_name_or_path=vit_base_patch16_224.augreg_in21k")
    assert "(for a timm model, timm/vit_base_patch16_224.augreg_in21k)" in message


def test_a_timm_model_without_timm(train: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save("timm vit", tmp_path / "timm")
    AutoConfig.from_pretrained(tmp_path / "timm")  # loads modules of transformers, which later tests need
    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not installed
    is_timm_available.cache_clear()
    try:
        message = train("--model_name_or_path=timm")
    finally:
        is_timm_available.cache_clear()
    assert len(message.splitlines()) == 1
    assert "timm: TimmWrapperConfig requires the timm library but it was not found" in message
    assert "`pip install timm`" in message


def test_a_malicious_pickle(train: Refuse, tiny_vit: Path, tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
            return Path.touch, (tmp_path / "touched",)

    shutil.copytree(tiny_vit, tmp_path / "evil")
    (tmp_path / "evil" / "model.safetensors").unlink()
    torch.save({"vit.layernorm.weight": Touch()}, tmp_path / "evil" / "pytorch_model.bin")
    message = train("--model_name_or_path=evil")  # this fixture checks that no file was created
    assert "are corrupt or contain more than tensors: use a model with safetensors weights" in message


def test_an_unsupported_image_size(train: Refuse, tmp_path: Path) -> None:
    save("convnext", tmp_path / "convnext")
    assert "--image_size 2 is not a multiple of the patch size 4: use 4" in train(
        "--model_name_or_path=convnext", "--image_size=2"
    )
    save("timm vit", tmp_path / "timm")
    assert "--image_size 64 is not supported for a timm model" in train("--model_name_or_path=timm", "--image_size=64")


def test_a_processor_that_does_not_fit_its_network(train: Refuse, tiny_vit: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_vit, tmp_path / "misfit")
    ViTImageProcessor(size={"height": 20, "width": 20}).save_pretrained(tmp_path / "misfit")
    message = train("--model_name_or_path=misfit")
    assert "misfit does not support the 20x20 images that its image processor makes" in message


def test_predict_with_a_backbone_that_lacks_weights(refused: Refuse, tiny_vit: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_vit, tmp_path / "holes")
    weights = load_file(tiny_vit / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "layer.1." not in name}
    save_file(kept, tmp_path / "holes" / "model.safetensors", metadata={"format": "pt"})
    noisy_image((200, 0, 0), 1).save(tmp_path / "a.png")
    assert "holes lacks 16 weights of its backbone" in refused("predict", "--model=holes", "a.png")


def test_an_image_size_that_the_patch_size_does_not_divide(train: Refuse) -> None:
    message = train("--image_size=30")
    assert "--image_size 30 is not a multiple of the patch size 4: use 28 or 32" in message


def test_an_output_folder_of_another_run(refused: Refuse, finished_run: Path, train_flags: list[str]) -> None:
    message = refused("train", *train_flags, f"--output_dir={finished_run}", "--learning_rate=1e-4")
    assert "learning_rate: 0.003 in the run folder, 0.0001 on the command line" in message
    assert "choose another --output_dir" in message


def test_an_output_folder_with_other_files(train: Refuse, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    assert "is not empty and is not a run folder" in train()


def test_a_folder_that_cannot_be_written(train: Refuse, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write into" in train("--output_dir=file/run")


def test_pushing_without_a_token_is_rejected_before_training(train: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.hf_api.get_token", lambda: None)
    message = train("--push_to_hub", "--hub_model_id=me/flowers")
    assert "hf auth login" in message


def test_evaluate_on_classes_the_model_does_not_know(refused: Refuse, finished_run: Path, tmp_path: Path) -> None:
    for name in ("red", "purple"):
        (tmp_path / "other" / name).mkdir(parents=True)
        noisy_image((200, 0, 0), 1).save(tmp_path / "other" / name / "1.png")
    message = refused("evaluate", f"--model={finished_run}", "--dataset_name=other")
    assert "classes that the model does not have: 'purple'" in message


def test_evaluate_without_model_or_data(refused: Refuse, tiny_vit: Path) -> None:
    assert "--model RUN" in refused("evaluate")
    assert "--dataset_name" in refused("evaluate", f"--model={tiny_vit}")


def test_evaluate_into_a_folder_that_holds_metrics(refused: Refuse, finished_run: Path) -> None:
    message = refused("evaluate", f"--model={finished_run}", f"--output_dir={finished_run}")
    assert "choose another --output_dir" in message


def test_predict_names_every_mistake_at_once(refused: Refuse) -> None:
    message = refused("predict", "a.png", "--top_k=0")
    assert "no model given: pass --model" in message
    assert "--top_k 0" in message


def test_predict_on_nothing_and_to_nowhere(refused: Refuse, finished_run: Path) -> None:
    assert "no image found at nothing*.jpg" in refused("predict", f"--model={finished_run}", "nothing*.jpg")
    assert ".csv, .jsonl, .parquet" in refused("predict", f"--model={finished_run}", "a.png", "--output=t.txt")
    message = refused("predict", f"--model={finished_run}", "a.png", "--output=no/t.csv")
    assert "is in a folder that does not exist: create no" in message


def test_predict_on_a_corrupt_image(refused: Refuse, finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"<html>404</html>")
    message = refused("predict", f"--model={finished_run}", "bad.jpg", "--output=table.csv")
    assert "none of the images can be read" in message
    assert "bad.jpg: not an image but an HTML page" in message


def test_predict_with_a_model_without_weights(refused: Refuse, tmp_path: Path) -> None:
    save_vit(tmp_path / "other")
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "other" / "model.safetensors").unlink()
    assert "other has no weights" in refused("predict", "--model=other", "a.png")


def test_pushing_a_folder_that_is_not_a_finished_run(refused: Refuse, tiny_vit: Path) -> None:
    assert "is not a run folder" in refused("push", f"--model={tiny_vit}", "--hub_model_id=me/flowers")
    assert "--hub_model_id OWNER/NAME" in refused("push", f"--model={tiny_vit}")


def test_pushing_without_network_does_not_change_the_card(
    refused: Refuse, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_some_token")
    before = (finished_run / "README.md").read_text()
    message = refused("push", f"--model={finished_run}", "--hub_model_id=me/flowers")
    assert "the Hub cannot be reached for me/flowers" in message
    assert (finished_run / "README.md").read_text() == before


@pytest.mark.parametrize(
    ("family", "flags", "message"),
    [
        ("resnet", ["--strategy=lora"], "has no query and value projections for adapters: use --strategy full or"),
        ("swin", ["--patch_drop_rate=0.5"], "does not support swin, which needs all patches: remove --patch_drop_rate"),
        ("deit", ["--freeze_blocks=9"], "--freeze_blocks 9 is more than the 2 blocks of DeiTFor"),
    ],
)
def test_settings_that_a_family_does_not_support(
    train: Refuse, tmp_path: Path, family: str, flags: list[str], message: str
) -> None:
    save(family, tmp_path / "model")
    assert message in train(f"--model_name_or_path={tmp_path / 'model'}", *flags)


def test_mixup_with_a_batch_of_one_image(train: Refuse) -> None:
    assert "raise --per_device_train_batch_size" in train("--mixup=0.5", "--per_device_train_batch_size=1")


def test_streaming_a_local_folder_or_with_flags_that_need_all_images(train: Refuse) -> None:
    assert "is a local folder; --streaming works with Hub datasets only" in train("--streaming")
    message = train("--streaming", "--baseline", "--balanced_sampling")
    assert message.startswith("--baseline, --balanced_sampling need all images before training and cannot be combined")

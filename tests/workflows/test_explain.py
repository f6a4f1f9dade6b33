import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import explain
from pipeline.errors import PipelineError
from pipeline.models.classifier import ImageClassifier
from tests.models import families
from tests.reporting.pages import Page

Run = Callable[..., tuple[int, str, str]]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "explanations.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_each_image_gets_a_picture_a_row_for_each_map_and_arrays(
    finished_run: Path, photos: Path, vit_pipeline: Run, tmp_path: Path
) -> None:
    output = tmp_path / "new" / "maps"
    words = ("explain", f"--model={finished_run}", photos / "test" / "red", f"--output={output}", "--class_name=blue")
    code, out, err = vit_pipeline(*words, "--arrays=yes", "--batch_size=4")
    assert code == 0, err
    rows = rows_of(output)
    assert f"{len(rows)} relevance maps, " in out
    assert [row["target"] for row in rows if row["class"] == "red"] == ["predicted"] * 6
    assert {row["class"] for row in rows} == {"red", "blue"}
    stems = sorted({row["picture"].removesuffix(".png") for row in rows})
    assert sorted(path.name for path in output.iterdir()) == sorted(
        ["explanations.csv", *(f"{stem}.{ending}" for stem in stems for ending in ("npz", "png"))]
    )
    assert stems[0] == "00001-000"
    classifier = ImageClassifier.load(finished_run)
    table = classifier.predict(photos / "test" / "red", top_k=3).set_index(["image", "label"])["probability"]
    for row in rows:
        assert float(row["probability"]) == pytest.approx(table[row["file"], row["class"]], abs=1e-5)
        assert 0 <= float(row["deletion"]) <= 1
        assert row["trusted"] in ("True", "False")
    with np.load(output / f"{stems[0]}.npz") as arrays:
        assert arrays["relevance"].shape == (2, 4, 4)
        assert arrays["classes"].tolist() == ["red", "blue"]
        assert arrays["attention"].shape == (2, 2, 4, 4)
        assert arrays["pixels"].shape == (16, 16, 3)
        picture = Image.open(rows[0]["file"]).resize((16, 16), Image.Resampling.BICUBIC)
        assert np.abs(arrays["pixels"].astype(int) - np.asarray(picture)).max() <= 4
    with Image.open(output / rows[0]["picture"]) as picture:
        assert picture.width > 900


def test_without_random_maps_nothing_is_compared(finished_run: Path, photos: Path, tmp_path: Path) -> None:
    table = explain(finished_run, photos / "test" / "red" / "000.png", output=tmp_path / "maps", random_maps=0)
    assert len(table) == 1
    assert table["trusted"][0] is None
    assert table["deletion"][0] is None
    assert (tmp_path / "maps" / "explanations.csv").read_text().count("\n") == 2


def test_an_unreadable_image_is_named_at_the_end_and_the_others_are_explained(
    finished_run: Path, photos: Path, vit_pipeline: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        (folder / name).write_bytes((photos / "test" / "red" / "000.png").read_bytes())
    Image.new("RGB", (1, 1), (200, 50, 40)).save(folder / "d.png")
    (folder / "b.jpg").write_bytes(b"no image")
    words = ("explain", f"--model={finished_run}", folder, "--random_maps=1", "--batch_size=2")
    code, _, err = vit_pipeline(*words, f"--output={tmp_path / 'first'}")
    assert code == 2
    assert f"{folder / 'b.jpg'}: not an image but a text file" in err
    assert "pass --bad_images skip" in err
    assert [Path(row["file"]).name for row in rows_of(tmp_path / "first")] == ["a.png", "c.png", "d.png"]
    assert len(list((tmp_path / "first").glob("*.png"))) == 3
    code, _, _ = vit_pipeline(*words, f"--output={tmp_path / 'second'}", "--bad_images=skip")
    assert code == 0
    assert "skipped 1 image that cannot be read" in caplog.text
    code, _, err = vit_pipeline(*words[:2], folder / "b.jpg", f"--output={tmp_path / 'third'}", "--bad_images=skip")
    assert code == 2


def test_problems_are_reported_together_before_anything_is_loaded(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "note.txt").write_text("mine")
    script = (
        "import sys; from pipeline import cli; code = cli.main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'numpy'} & sys.modules.keys(); sys.exit(str(heavy) if heavy else code)"
    )
    words = [f"--model={finished_run}", str(tmp_path / "missing"), f"--output={tmp_path / 'used'}", "--class_name=bleu"]
    done = subprocess.run(
        [sys.executable, "-c", script, "explain", *words, "--layer=2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert f"no image found at {tmp_path / 'missing'}" in done.stderr
    assert f"--output {tmp_path / 'used'} holds other files: choose a new folder" in done.stderr
    assert f"{finished_run} has no class 'bleu' (did you mean 'blue'?): correct --class_name" in done.stderr
    assert "--layer needs --tour: add --tour IMAGE, or remove it" in done.stderr


def test_other_mistakes_name_the_way_on(finished_run: Path, photos: Path, vit_pipeline: Run, tmp_path: Path) -> None:
    image = photos / "test" / "red" / "000.png"
    assert "no output folder given: pass --output FOLDER" in vit_pipeline("explain", "--model=x/y", image)[2]
    (tmp_path / "file").write_text("")
    _, _, err = vit_pipeline("explain", f"--model={finished_run}", image, f"--output={tmp_path / 'file' / 'maps'}")
    assert f"({tmp_path / 'file'} is a file): choose another --output" in err
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "run.json").write_text(json.dumps({"status": "running"}))
    for folder, text in (("unfinished", "is not finished: repeat its `train` command"), ("", "has no config.json")):
        code, _, err = vit_pipeline("explain", f"--model={tmp_path / folder}", image, f"--output={tmp_path / 'maps'}")
        assert (code, text in err) == (2, True), err
    words = ("explain", f"--model={finished_run}", f"--tour={image}", f"--output={tmp_path / 'maps'}")
    code, _, err = vit_pipeline(*words, "--layer=3", "--head=4")
    assert code == 2
    assert "--layer 3 is more than the 2 of the network: use a number from 1 to 2" in err
    assert "--head 4 is more than the 2 of the network: use a number from 1 to 2" in err
    assert not (tmp_path / "maps").exists()
    with pytest.raises(PipelineError, match="no class 'rde'"):
        explain(finished_run, image, output=tmp_path / "maps", class_name="rde")


@pytest.mark.parametrize(
    ("family", "flag", "text"),
    [("timm vit", None, "explain does not support"), ("resnet", "--tour", "--tour does not support resnet")],
)
def test_a_family_that_cannot_be_explained_is_refused(
    family: str, flag: str | None, text: str, photos: Path, vit_pipeline: Run, tmp_path: Path
) -> None:
    families.save(family, tmp_path / "model")
    image = photos / "test" / "red" / "000.png"
    words = ("explain", f"--model={tmp_path / 'model'}", f"--output={tmp_path / 'maps'}")
    code, _, err = vit_pipeline(*words, *([f"{flag}={image}"] if flag else [image]))
    assert code == 2
    assert text in err
    assert "use a ViT, DeiT, BEiT, DINOv2" in err
    assert not (tmp_path / "maps").exists()


ODD = ["<script>alert(1)</script>", "🌻 ورد \u202e\x1b[31m"]


@pytest.fixture(scope="module")
def odd_model(tmp_path_factory: pytest.TempPathFactory, tiny_vit: Path) -> Path:
    """A model with two classes that have names which must be shown and not executed."""
    classifier: Any = ImageClassifier.load(tiny_vit)
    model = classifier.model
    model.classifier.weight.data = model.classifier.weight.data[:2]
    model.classifier.bias.data = model.classifier.bias.data[:2]
    model.config.id2label = dict(enumerate(ODD))
    model.config.label2id = {name: number for number, name in enumerate(ODD)}
    folder = tmp_path_factory.mktemp("odd")
    classifier.save(folder)
    return folder


def test_the_tour_is_one_page_with_two_sentences_for_each_step(odd_model: Path, photos: Path, tmp_path: Path) -> None:
    image = photos / "test" / "red" / "000.png"
    table = explain(odd_model, tour=image, output=tmp_path / "maps", layer=1, head=2, random_maps=1, class_name=ODD[1])
    assert set(table["class"]) <= set(ODD)
    text = (tmp_path / "maps" / "tour.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "<script" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    steps = page.all("section")
    titles = [each.text.split(" ", 1)[1] for each in page.all("h2")]
    assert titles == [
        "Image", "Patches", "Patch embeddings", "Position embeddings", "Queries, keys and values",
        "Attention by layer", "The way of the class token through the layers", "Labels",
    ]  # fmt: skip
    for step in steps:
        assert len([p for p in page.all("p") if p.parent and p.parent.parent is step and p.parent.tag == "div"
                    and p.attributes.get("class") is None]) == 2  # fmt: skip
    assert "16 x 16 pixels with 3 colors: 768 numbers" in steps[0].text
    assert "16 patches of 4 x 4 pixels" in steps[1].text
    assert "48 numbers of a patch to an embedding of 32 numbers" in steps[2].text
    assert "Head 2 of 2 in layer 1" in steps[4].text
    images = page.all("img")
    assert len(images) > 10
    assert all(each.attributes["src"].startswith("data:image/png;base64,") for each in images)
    assert all(each.attributes["alt"] for each in images)
    assert len(text) < 1_000_000

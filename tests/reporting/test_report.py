"""`report.html` agrees with the files of the run, shows texts of strangers literally, and can be read by everyone."""

import itertools
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.names import ASSETS
from pipeline.errors import PipelineError
from pipeline.evaluation.confusion import class_rows
from pipeline.evaluation.examples import Scored
from pipeline.evaluation.explanations.gallery import Gallery, ShownMap, write_gallery
from pipeline.evaluation.predictions import Predictions, write_predictions
from pipeline.evaluation.thumbnails import read_thumbnails
from pipeline.reporting import report
from pipeline.reporting.wording import describe_trials
from pipeline.runs.files import read_json, write_json
from pipeline.runs.folder import (
    PREDICTIONS,
    RECIPE,
    RECORD,
    RELEVANCE,
    REPORT,
    RESULTS,
    THUMBNAILS,
    TRAINER_STATE,
    RunFolder,
)
from tests.reporting.made_runs import make_run, random_predictions
from tests.reporting.pages import Page
from tests.reporting.test_card import WORSE

CURVE = [{"images_per_class": n, "images": n * 4, "accuracy": a} for n, a in ((1, 0.2), (5, 0.4), (10, 0.5))]
PROBE = {"probe_eval_accuracy": 0.45, "probe_C": 1.0, "knn_eval_accuracy": 0.4, "knn_k": 5, "learning_curve": CURVE}
NAMES = ["rose", "tulip", "lily", "daisy"]
ODD_NAMES = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "🌻 sun\u202eflower", "x" * 200, "وردة حمراء",
    "\x1b[31mred\x1b[0m", "a\nb", "{{ 7 * 7 }}", "&amp;", "' onmouseover='alert(1)",
]  # fmt: skip


def page_of(folder: Path) -> tuple[str, Page]:
    text = report.write(folder).read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    predictions = [random_predictions("validation", 80, 4, skill=1.5), random_predictions("test", 200, 4, skill=1.5)]
    return make_run(tmp_path_factory.mktemp("runs") / "flowers", predictions, NAMES, results=PROBE)


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


def test_the_result_is_that_of_the_test_split_next_to_what_is_cheaper(run: Path) -> None:
    _, page = page_of(run)
    results = read_json(run / RESULTS)
    shown = page.text_of("result")
    assert f"{100 * results['test_accuracy']:.1f}%" in shown
    low, high = results["test_accuracy_low"], results["test_accuracy_high"]
    assert f"of 200 test images are classified correctly (95% interval {100 * low:.1f}% to {100 * high:.1f}%)" in shown
    assert "the test split was scored once" in shown
    gain = 100 * (results["eval_accuracy"] - 0.45)
    assert f"{abs(gain):.1f} points {'more' if gain > 0 else 'less'} accurate than a linear probe" in shown
    for name, split, accuracy in (
        ("always “rose”", "test", 0.25), ("nearest neighbors (k = 5) on frozen features", "validation", 0.4),
        ("linear probe on frozen features", "validation", 0.45), ("this model", "validation", results["eval_accuracy"]),
        ("this model", "test", results["test_accuracy"]),
    ):  # fmt: skip
        assert f"{name} {split} {100 * accuracy:.2f}% [" in shown


def test_the_probe_of_auto_is_next_to_the_result_with_its_resolution(copied: Path) -> None:
    found = {"auto_probe_eval_accuracy": 0.48, "auto_probe_image_size": 64, "auto_trained_eval_accuracy": 0.5}
    found |= {"auto_knn_eval_accuracy": 0.42, "auto_knn_k": 10, "auto_knn_image_size": 96}
    write_json(copied / RESULTS, read_json(copied / RESULTS) | found)
    _, page = page_of(copied)
    assert "linear probe on frozen features at 64 px validation 48.00% [" in page.text_of("result")
    assert "nearest neighbors (k = 10) on frozen features at 96 px validation 42.00% [" in page.text_of("result")
    write_json(copied / RESULTS, read_json(copied / RESULTS) | found | {"auto_trained_eval_accuracy": 0.4})
    _, page = page_of(copied)
    assert "linear probe" not in page.text_of("result").partition("Accuracy next to")[2]


def test_the_table_of_classes_holds_the_metrics_of_each_class(run: Path) -> None:
    _, page = page_of(run)
    scored = Scored.of(random_predictions("test", 200, 4, skill=1.5))
    expected = {NAMES[row.number]: row for row in class_rows(scored.matrix)}
    rows = page.rows("class-table")
    assert [cells[1] for cells in rows] == sorted(expected, key=lambda name: expected[name].recall or 0)
    for _, name, images, recall, _, precision, f1, mistaken in rows:
        row = expected[name]
        assert images == "50"
        assert recall.startswith(f"{100 * (row.recall or 0):.1f}% [")
        assert precision == f"{100 * (row.precision or 0):.1f}%"
        assert f1 == f"{row.f1:.3f}"
        assert mistaken == f"{NAMES[row.mistaken_for or 0]} ({row.mistakes})"


def test_the_page_names_origin_data_speed_and_how_to_repeat_it(run: Path) -> None:
    text, page = page_of(run)
    assert "google/vit-base-patch16-224-in21k, fine-tuned on 1,020 training images of 4 classes from photos." in text
    assert "ignoring 2 files: 'a.txt', 'b.txt'" in page.text_of("data")
    assert "0123456789abcdef" in page.text_of("data")
    speed = page.text_of("speed")
    assert "71.25 images/s MFU 62% of the measured matmul rate data wait 1.0%" in speed
    assert (
        "frozen features 4.0 6% linear probe and learning curve 2.0 3% training and saving the model 55.5 78%" in speed
    )
    repeat = page.text_of("repeat")
    assert "vit-pipeline train --dataset_name me/photos" in repeat
    assert f"torch {RunFolder(run).record['versions']['torch']}" in repeat
    assert "learning_rate: 0.0001" in repeat
    assert "Chosen by --auto" not in text


def test_the_choices_of_auto_are_shown(copied: Path) -> None:
    trial = {"flags": {}, "epochs": 4, "accuracy": 0.5, "seconds": 9.6, "chosen": False}
    better = trial | {"flags": {"hflip": 0.0, "crop_scale": 0.7}, "accuracy": 0.625, "chosen": True}
    trials = [trial | {"candidate": "the settings above"}, better | {"candidate": "no flips"}]
    RunFolder(copied).update(auto=["--strategy=full", "--learning_rate=0.002"], trials=trials)
    _, page = page_of(copied)
    text = page.text_of("training")
    assert "Chosen by --auto --strategy full --learning_rate 0.002" in text
    assert "the settings above 4 50.0% 10 no flips (chosen) --hflip 0.0 --crop_scale 0.7 4 62.5% 10" in text
    sentence = describe_trials(RunFolder(copied).record)
    assert sentence.startswith("Validation chose the settings among 2 candidates, in 2 trials: no flips.")


def test_slices_on_which_the_model_is_worse_come_first_and_the_others_are_listed(copied: Path) -> None:
    assert "Slices are missing" in page_of(copied)[1].text_of("slices")
    results = read_json(copied / RESULTS)
    even = WORSE | {"kind": "brightness", "name": "0% to 9%", "p_value": 0.25, "is_worse": False}
    write_json(copied / RESULTS, results | {"test_slices": [even]})
    assert "worse on none of 1 slices of the test split" in page_of(copied)[1].text_of("slices")
    write_json(copied / RESULTS, results | {"test_slices": [even, WORSE]})
    _, page = page_of(copied)
    text = page.text_of("slices")
    assert "The model is significantly worse on images in folder <b>x_1: 20.00% [10.0, 30.0] of 40 images" in text
    assert "corrected for 2 slices (Holm)" in text
    assert "folder <b>x_1 worse 40 20.0% [10, 30] 70.0% < 0.001 brightness 0% to 9% 40" in text


def test_relevance_maps_come_with_their_trust(copied: Path) -> None:
    assert "map" not in page_of(copied)[1].text_of("pictures")
    scored = Scored.of(random_predictions("test", 200, 4, skill=1.5))
    rows, ids = scored.confident_mistakes()[:3], scored.predictions.ids
    jpeg = next(iter(read_thumbnails(copied / THUMBNAILS).values()))
    maps = {
        ("test", ids[row]): ShownMap(jpeg, np.eye(4, dtype=np.float32), trusted)
        for row, trusted in zip(rows, (True, False, None), strict=True)
    }
    write_gallery(copied / RELEVANCE, Gallery("LeGrad", "", maps))
    _, page = page_of(copied)
    text = page.text_of("pictures")
    assert "found its prediction (LeGrad)" in text
    for row, verdict in zip(rows, ("map trusted", "map not trusted", "map not compared"), strict=True):
        assert re.search(rf"{re.escape(ids[row])} {verdict}", text)
        alt = f"relevance map for {NAMES[scored.predicted[row]]}"
        assert alt in {image.attributes["alt"] for image in page.all("img")}
    write_gallery(copied / RELEVANCE, Gallery("", "explain does not support <b>", {}))
    assert "Relevance maps are missing: explain does not support <b>." in page_of(copied)[1].text_of("pictures")
    write_gallery(copied / RELEVANCE, Gallery("LeGrad", "", {("test", "other.jpg"): maps["test", ids[rows[0]]]}))
    with pytest.raises(PipelineError, match=r"relevance\.parquet shows images that predictions\.parquet does not list"):
        report.write(copied)


def test_charts_and_their_numbers_are_those_of_the_run(run: Path) -> None:
    _, page = page_of(run)
    assert [figure.text.split(" 100%")[0].split()[0] for figure in page.all("figure")] == [
        "Reliability", "Risk", "Loss", "Validation", "Learning",
    ]  # fmt: skip
    assert "From 5 to 10 training images per class" in page.text_of("training")
    scored = Scored.of(random_predictions("test", 200, 4, skill=1.5))
    gap = 100 * (scored.confidence.mean() - scored.correct.mean())
    verdict = "overconfident" if gap > 0 else "underconfident"
    assert f"the model is {verdict} by {abs(gap):.1f} points" in page.text_of("confidence")
    assert f"{100 * (1 - scored.correct.mean()):.1f}% of all" in page.text_of("confidence")


def test_the_page_is_made_from_the_folder_alone_and_the_same_each_time(run: Path, copied: Path) -> None:
    text, page = page_of(run)
    assert page_of(run)[0] == text
    assert str(run.parent) not in text
    for element in page.elements:
        for name in ("src", "href", "action", "poster", "data"):
            address = element.attributes.get(name, "#")
            assert address.startswith(("data:", "#")), address
    assert "url(" not in text
    assert "@import" not in text
    for file in ("config.json", "model.safetensors"):
        assert not (copied / file).exists()


def test_a_reader_with_a_keyboard_or_a_screen_reader_gets_everything(run: Path) -> None:
    _, page = page_of(run)
    assert page.all("html")[0].attributes["lang"] == "en"
    assert [len(page.all(tag)) for tag in ("header", "nav", "main", "footer", "h1")] == [1] * 5
    assert page.all("title")[0].parent == page.all("head")[0]
    levels = [int(heading.tag[1]) for heading in page.all("h1", "h2", "h3", "h4")]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(heading.text for heading in page.all("h1", "h2", "h3", "h4"))
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    links = [link.attributes["href"] for link in page.all("a")]
    assert links
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert all("alt" in image.attributes for image in page.all("img"))
    labels = {label.attributes.get("for") for label in page.all("label")}
    assert all(field.attributes["id"] in labels for field in page.all("input"))
    assert all(cell.attributes.get("scope") in ("col", "row") and cell.text for cell in page.all("th"))
    assert all(button.text for button in page.all("button", "summary"))
    for element in page.elements:
        attributes = element.attributes
        if attributes.get("role") in ("img", "region") or attributes.get("tabindex") == "0":
            assert attributes.get("aria-label") or attributes.get("aria-labelledby") in ids
        if element.tag == "svg":
            assert attributes.get("role") == "img" or attributes.get("aria-hidden") == "true"


def luminance(color: str) -> float:
    channels = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1])
def test_texts_have_enough_contrast_in_both_themes(theme: int) -> None:
    style = (ASSETS / "report.css").read_text()
    colors = dict(re.findall(r"--(\w+): (#\w{6});", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[theme]))
    assert {"ground", "surface", "text", "muted", "accent"} <= colors.keys()
    for text, ground in itertools.product(("text", "muted", "accent"), ("ground", "surface")):
        light, dark = sorted((luminance(colors[text]), luminance(colors[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def test_texts_of_strangers_are_shown_and_never_executed(tmp_path: Path) -> None:
    ids = [f"{name.replace(chr(10), ' ')}/{row}" for row, name in enumerate(ODD_NAMES * 12)]
    predictions = [random_predictions("test", len(ids), len(ODD_NAMES), ids=ids, skill=1.0)]
    notes = ["ignoring <b>\x1b[2J</b>"]
    folder = make_run(
        tmp_path / "<i>run",
        predictions,
        ODD_NAMES,
        data={
            "name": "me/<b>photos\x07",
            "notes": notes,
            "skipped": [{"split": "test", "image": "<u>", "reason": "\x1b"}],
        },
        model_name_or_path="me/<script>x",
        results=PROBE,
    )
    text, page = page_of(folder)
    assert len(page.all("script")) == 1
    assert not page.all("i", "u")
    assert not {name for element in page.elements for name in element.attributes if name.startswith("on")}
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    names = [cells[1] for cells in page.rows("class-table")]
    expected = {
        name.replace("\x1b", "⟨U+001B⟩").replace("\n", "⟨U+000A⟩").replace("\u202e", "⟨U+202E⟩") for name in ODD_NAMES
    }
    assert set(names) == expected
    assert page.all("h1")[0].text == "<i>run"
    assert "⟨U+001B⟩[2J" in page.text_of("data")
    assert "photos⟨U+0007⟩" in page.text_of("data")


def two(logits: list[list[float]], labels: list[int], split: str = "test") -> Predictions:
    ids = [f"{row}.png" for row in range(len(labels))]
    return Predictions(split, ids, np.array(labels), np.array(logits, np.float32))


@pytest.mark.parametrize(
    "predictions",
    [
        pytest.param(two([[1, 0]], [0]), id="one image, correct"),
        pytest.param(two([[1, 0]], [1]), id="one image, wrong"),
        pytest.param(two([[1e6, 0], [0, 1e6], [0, 1e6]], [0, 1, 0]), id="probabilities of 0 and 1"),
        pytest.param(two([[3, 0], [2, 0], [1, 0]], [0, 1, 1]), id="a class that is never predicted"),
        pytest.param(two([[1, 0], [1, 0], [0, 1]], [0, 0, 1]), id="no mistake"),
        pytest.param(two([[0, 0]] * 5, [0, 1, 0, 1, 1]), id="equal confidences"),
    ],
)
def test_small_and_extreme_predictions_make_a_page(tmp_path: Path, predictions: Predictions) -> None:
    folder = make_run(tmp_path / "run", [predictions], ["no", "yes"], results=PROBE)
    _, page = page_of(folder)
    assert not re.search(r"\b(nan|inf|None)\b", page.all("main")[0].text)
    assert f"of {len(predictions.ids)} test images" in page.text_of("result")
    never = set(range(2)) & set(predictions.labels) - set(predictions.logits.argmax(1))
    assert ("Never predicted:" in page.text_of("classes")) == bool(never)


def test_without_test_the_result_is_that_of_validation(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [random_predictions("validation", 40, 4)], NAMES)
    _, page = page_of(folder)
    assert "of 40 validation images are classified correctly" in page.text_of("result")
    assert "expect a lower accuracy on new images" in page.text_of("result")


def test_a_linear_probe_has_no_training_curves(tmp_path: Path) -> None:
    predictions = [random_predictions("validation", 40, 4)]
    folder = make_run(tmp_path / "run", predictions, NAMES, state=False, results=PROBE, strategy="head")
    _, page = page_of(folder)
    assert "A linear probe on the frozen features of google/vit-base" in page.all("header")[0].text
    assert "Training curves are missing, because the head was fitted on frozen features." in page.text_of("training")
    assert "Learning curve" in page.text_of("training")
    assert "linear probe on frozen features" not in page.text_of("result")  # it is the model itself


def test_a_missing_optional_file_is_named_in_one_line(copied: Path) -> None:
    (copied / THUMBNAILS).unlink()
    (copied / TRAINER_STATE).unlink()
    _, page = page_of(copied)
    assert "Pictures are missing, because the run folder lacks thumbnails.parquet" in page.text_of("pictures")
    assert "Training curves are missing, because the run folder lacks trainer_state.json" in page.text_of("training")
    assert page.all("img") == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def other_predictions(folder: Path) -> None:
    write_predictions(folder / PREDICTIONS, [random_predictions("test", 30, 4)], NAMES)


def nan_logits(folder: Path) -> None:
    predictions = random_predictions("test", 30, 4)
    predictions.logits[3, 1] = np.nan
    write_predictions(folder / PREDICTIONS, [predictions], NAMES)


def other_thumbnails(folder: Path) -> None:
    other = make_run(folder.parent / "other", [random_predictions("test", 9, 4, ids=[*"abcdefghi"])], NAMES)
    shutil.copy(other / THUMBNAILS, folder / THUMBNAILS)


def without_data(folder: Path) -> None:
    write_json(folder / RECORD, {key: value for key, value in read_json(folder / RECORD).items() if key != "data"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / RECORD).unlink(), r"is not a run folder: pass a folder that `train` wrote$"),
        (lambda folder: RunFolder(folder).update(status="running"), r"is not finished: repeat its `train` command$"),
        (
            lambda folder: (folder / RECIPE).unlink(),
            r"has no recipe\.yaml: copy the file from the original run folder$",
        ),
        (lambda folder: (folder / PREDICTIONS).unlink(), r"has no predictions\.parquet: copy the file"),
        (lambda folder: (folder / RESULTS).write_text("[]"), r"all_results\.json"),
        (lambda folder: cut(folder / RECORD), r"run\.json cannot be read \("),
        (lambda folder: cut(folder / RESULTS), r"all_results\.json cannot be read \("),
        (lambda folder: cut(folder / PREDICTIONS), r"predictions\.parquet cannot be read \("),
        (lambda folder: cut(folder / THUMBNAILS), r"thumbnails\.parquet cannot be read \("),
        (lambda folder: (folder / RELEVANCE).write_bytes(b"PAR1"), r"relevance\.parquet cannot be read \("),
        (lambda folder: cut(folder / TRAINER_STATE), r"trainer_state\.json cannot be read \("),
        (lambda folder: (folder / RECIPE).write_text("a: ]"), r"recipe\.yaml cannot be read \("),
        (without_data, r"run\.json has no data: copy the file"),
        (other_predictions, r"predictions\.parquet is not that of .*all_results\.json: test has 30 images"),
        (other_thumbnails, r"thumbnails\.parquet shows images that predictions\.parquet does not list"),
        (nan_logits, r"predictions\.parquet"),
    ],
)
def test_a_folder_with_missing_damaged_or_foreign_files_is_rejected(copied: Path, damage: Any, message: str) -> None:
    damage(copied)
    with pytest.raises(PipelineError, match=message) as raised:
        report.write(copied)
    assert len(str(raised.value).splitlines()) == 1
    assert not (copied / REPORT).exists() or (copied / REPORT).stat().st_size > 0


def test_a_report_of_a_large_run_is_small_and_fast(tmp_path: Path) -> None:
    predictions = [random_predictions("validation", 1020, 102), random_predictions("test", 6149, 102, seed=1)]
    folder = make_run(tmp_path / "run", predictions, [f"flower {number}" for number in range(102)], results=PROBE)
    before = time.process_time()
    file = report.write(folder)
    assert time.process_time() - before < 20
    assert file.stat().st_size < 5_000_000

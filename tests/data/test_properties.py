"""Random folders and tables are read completely: every image and row is in a split, or counted in a note."""

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from pipeline.data.report import LoadedSplits
from tests.data.conftest import label_names_of, png_bytes
from tests.data.properties import assert_same_elsewhere, counted, examples, folder, load, rows_of

_PNG = png_bytes()
_IMAGES = (".png", ".jpg")

# Trees of folders

_CLASSES = [
    "rose",
    "Rose",
    "ros\u00e9",
    "rose\u0301",
    "two words",
    " blank ",
    " ",
    "10",
    "010",
    "-1",
    "1",
    "nan",
    "日本",
]
_CLASSES += ["terrain", "a.png", "b.json", "o'brien", "x: y", "train", "test", "caf\udce9"]
_SPLITS = ["train", "Training", "val", "dev", "test", "TEST", "trian", "test_set"]
_OTHERS = ["images", "data", "extra", ".hidden", "__MACOSX"]
_FILES = ["1.png", "2.PNG", "3.jpg", "ü.png", "a b.png", ".4.png", "Thumbs.db", "notes.txt", "b.png.txt"]
_FILES += ["x.csv", "x.json"]
_CONTENTS = ["image"] * 12 + ["broken", "empty", "link", "lost link", "loop"]


@st.composite
def trees(draw: st.DrawFn) -> dict[str, str]:
    """Return what each file is by its path: images in one of the usual layouts, and others at random places."""
    name = st.sampled_from(_CLASSES)
    classes = draw(st.lists(name if draw(st.booleans()) else st.sampled_from(_CLASSES[:1] + _CLASSES[7:8]), max_size=3))
    splits = draw(st.lists(st.sampled_from(_SPLITS), max_size=3, unique=True)) or [""]
    wrapper = draw(st.lists(st.sampled_from(_OTHERS[:3] + _CLASSES[:1]), max_size=1))
    inner = draw(st.lists(st.sampled_from(_OTHERS[:2]), max_size=1))
    above = draw(st.booleans())
    paths = []
    for split in splits:
        for label in ["rose", "10", *classes] if draw(st.integers(0, 5)) else classes:
            levels = [split, *inner, label] if above else [label, split]
            count = draw(st.integers(1, 3))
            paths += ["/".join(filter(None, [*wrapper, *levels, f"{split}{n}.png"])) for n in range(count)]
    anywhere = st.lists(st.sampled_from(_CLASSES + _SPLITS + _OTHERS + [*wrapper, *splits] * 5), max_size=3)
    for _ in range(draw(st.integers(0, 4))):
        paths.append("/".join(filter(None, [*draw(anywhere), draw(st.sampled_from(_FILES))])))
    kinds = draw(st.lists(st.sampled_from(_CONTENTS), min_size=len(paths), max_size=len(paths)))
    if draw(st.integers(0, 2)):
        kinds = ["image"] * len(paths)
    return dict(zip(paths, kinds, strict=True))


def write_tree(root: Path, tree: dict[str, str]) -> None:
    for path, kind in tree.items():
        file = root / path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if kind == "loop":
                file.with_suffix("").symlink_to(root, target_is_directory=True)
            elif kind.endswith("link"):
                target = root.parent / f"{kind}.png"
                target.write_bytes(_PNG) if kind == "link" else None
                file.symlink_to(target)
            else:
                file.write_bytes({"image": _PNG, "broken": _PNG[:40], "empty": b""}[kind])
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue  # the place is taken


def visible_images(root: Path) -> set[str]:
    """Return the paths of all images, without hidden files and litter. Links to folders are not followed."""
    found = set()
    for parent, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        found |= {f"{parent}/{file}" for file in files if file.lower().endswith(_IMAGES) and file[0] != "."}
    return found


@examples(60)
@given(trees(), st.sampled_from(["fail", "skip"]), st.sampled_from([None, 1, 2]))
def test_every_image_below_a_folder_is_accounted_for(
    tree: dict[str, str], bad_images: Any, minimum: int | None
) -> None:
    with folder() as root:
        write_tree(root, tree)
        arguments: Any = {"bad_images": bad_images, "max_bad_images": 1.0, "min_images_per_class": minimum}
        splits = load(root, **arguments)
        if splits is None:
            return
        rows, images = rows_of(splits), visible_images(root)
        read = [path for _, path, _ in rows]
        assert len(set(read)) == len(read)
        assert set(read) <= images
        dropped = dropped_by_minimum(splits)
        assert len(images) == len(read) + counted(splits) + dropped, (images - set(read), splits.report.notes)
        for split, path, label in rows:
            folders = Path(path).relative_to(root).parts[:-1]
            assert label in {*folders, *(unicodedata.normalize("NFC", name) for name in folders)}
            assert split != "test" or any(name.lower() == "test" for name in folders)
        assert_same_elsewhere(root, splits, **arguments)


def dropped_by_minimum(splits: LoadedSplits) -> int:
    notes = [note for note in splits.report.notes if "--min_images_per_class" in note]
    return sum(int(n) for note in notes for n in re.findall(r"(\d+) in \w+", note.rpartition("images: ")[2]))


# Tables


_PLACES = ["1.png", "img/2.png", "img/a b.png", "img/ü.png", "c/d/3.jpg", "c/4.PNG", "img/5.png", "c/6.png"]
_LABELS = ["rose", "tulip", "rose, red", "1", "0", "-1", "", "  ", "nan", 'the "x"', "ROSE", "日本"]
_PATHS = {
    "exact": "{}",
    "here": "./{}",
    "foreign": "/home/me/data/{}",
    "windows": "C:\\data\\{}",
    "up": "img/../{}",
    "absolute": "{root}/{}",
}


def write_path(place: str, form: str, root: Path) -> str:
    if form == "stem":
        return Path(place).stem
    text = _PATHS[form].format(place, root=root)
    return text.replace("/", "\\") if form == "windows" else text


@st.composite
def tables(draw: st.DrawFn) -> tuple[Any, ...]:
    places = draw(st.lists(st.sampled_from(_PLACES), min_size=4, max_size=8, unique=True))
    listed = draw(st.lists(st.sampled_from(places), min_size=2, max_size=10))
    pool = draw(st.lists(st.sampled_from(_LABELS), min_size=2, max_size=3)) + ["rose", "tulip"] * draw(st.booleans())
    labels = draw(st.lists(st.sampled_from(pool), min_size=len(listed), max_size=len(listed)))
    form = draw(st.sampled_from([*_PATHS, "stem"]))
    kind = draw(st.sampled_from(["csv", "tsv", "jsonl", "json", "one-hot"]))
    style = (draw(st.sampled_from(",;\t|")), draw(st.booleans()), draw(st.booleans()), draw(st.booleans()))
    lost = draw(st.integers(0, 3)) == 0
    return places, listed, labels, form, kind, style, lost, draw(st.sampled_from(["", "test", "other", "submission"]))


def table_text(kind: str, header: Sequence[str], rows: Sequence[Sequence[str]], style: tuple[Any, ...]) -> str:
    delimiter, blank_lines, mark, windows = style
    if kind.startswith("json"):
        objects = [dict(zip(header, row, strict=True)) for row in rows]
        return json.dumps(objects) if kind == "json" else "\n".join(map(json.dumps, objects))
    stream = io.StringIO()
    end = "\r\n" if windows else "\n"
    csv.writer(stream, delimiter="\t" if kind == "tsv" else delimiter, lineterminator=end).writerows([header, *rows])
    text: str = stream.getvalue()
    if blank_lines:
        text = end + text.replace(end, end + end, 1) + end
    return f"{chr(0xFEFF) * mark}{text}"


def meant(labels: Sequence[str]) -> list[str | None]:
    """Return the class of each row of a text column: empty, blank, nan and mostly -1 mean no label."""
    values = {label for label in labels if label.strip() and label != "nan"}
    is_class = values == {"-1", "1"}
    return [label if label in values and (label != "-1" or is_class) else None for label in labels]


def write_tables(root: Path, drawn: tuple[Any, ...]) -> list[tuple[str, str | None]]:
    """Write the images and tables, and return the image and the class that each row of train means."""
    places, listed, labels, form, kind, style, lost, other = drawn
    (root / "img").mkdir()
    for place in places:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(_PNG)
    paths = [*(write_path(place, form, root) for place in listed), *["none.png", ""] * lost]
    labels = [*labels, *["rose", "tulip"] * lost]
    if kind == "one-hot":
        names = sorted({label for label in labels if label.strip()})
        header = ["image", *(f"class {number}" for number in range(len(names)))]
        classes: list[str | None] = [f"class {names.index(label)}" if label in names else None for label in labels]
        rows = [[path, *(str(int(label == name)) for name in names)] for path, label in zip(paths, labels, strict=True)]
        if len(names) == 1:  # a single 0/1 column is a label column
            classes = [row[1] for row in rows]
    else:
        header, classes = ["image", "label"], meant(labels)
        rows = [list(row) for row in zip(paths, labels, strict=True)]
    extension = "csv" if kind == "one-hot" else kind
    text = table_text(kind, header, rows, style)
    (root / f"train.{extension}").write_text(text, encoding="utf-8", newline="")
    if other:
        (root / f"{other}.{extension}").write_text(table_text(kind, header, rows[:1], style), encoding="utf-8")
    return list(zip([*listed, *["none.png", ""] * lost], classes, strict=True))


@examples(60)
@given(tables())
def test_every_row_of_a_table_is_accounted_for(drawn: tuple[Any, ...]) -> None:
    with folder() as root:
        expected = write_tables(root, drawn)
        arguments: Any = {"bad_images": "skip", "max_bad_images": 1.0, "min_images_per_class": 1}
        splits = load(root, **arguments)
        if splits is None:
            return
        notes = "\n".join(splits.report.notes)
        if splits.report.source == "class folders":
            assert re.search("ignoring .*'train.json', which can be tables", notes)
            return
        num_rows = 0
        for name in ("train", "validation"):
            for row, label in zip(splits[name], label_names_of(splits[name]), strict=True):
                place, expected_label = expected[row["index"]]
                assert label == expected_label, (row, expected)
                assert Path(row["image"]["path"]).resolve() == root / place
                num_rows += 1
        skipped = [image for image in splits.skipped if image.split in ("train", "validation")]
        unlabeled = [label for _, label in expected].count(None)
        assert num_rows + len(skipped) + unlabeled == len(expected), notes
        assert not unlabeled or f"train: skipping {unlabeled} of {len(expected)} rows without a label" in notes
        assert len(skipped) == sum(not (root / place).is_file() for place, label in expected if label), skipped
        assert_other_files_are_noted(drawn, splits)
        assert_same_elsewhere(root, splits, **arguments)


def assert_other_files_are_noted(drawn: tuple[Any, ...], splits: LoadedSplits) -> None:
    places, listed, *_, other = drawn
    notes = "\n".join(splits.report.notes)
    assert not other or other in notes or other in splits, notes
    named = re.findall(r"'([^']*)'", notes.partition("folders with images that no table lists: ")[2].partition("\n")[0])
    unlisted = [place for place in places if place not in listed and place.partition("/")[0] not in named]
    numbers = [int(number) for number in re.findall(r"ignoring (\d+) images that no table lists", notes)]
    assert sum(numbers) == len(unlisted), (unlisted, notes)

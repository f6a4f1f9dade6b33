"""`oxford-flowers-102`, from archives with the same layout as the authors': downloaded once and verified."""

import functools
import hashlib
import http.server
import logging
import shutil
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from torchvision.datasets import Flowers102

from pipeline.data.report import fingerprint
from pipeline.errors import PipelineError
from tests.conftest import SHARED
from tests.data.conftest import assert_format, class_names_of, file_names_of, label_names_of, load, save_images

# As in the original files, image numbers and labels start at 1. LABELS[0] is the label of image_00001.jpg.
LABELS = [1, 2, 102, 2, 1, 102, 102, 1, 2]
SPLITS = {"trnid": [4, 1, 3], "valid": [2, 5, 6], "tstid": [9, 8, 7]}


@dataclass(frozen=True)
class Mirror:
    """The folder that the server publishes, and the folder that receives the downloads."""

    published: Path
    folder: Path


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    published = tmp_path / "published"
    names = [f"jpg/image_{number:05}.jpg" for number in range(1, len(LABELS) + 1)]
    save_images(published, *names)
    with tarfile.open(published / "102flowers.tgz", "w:gz") as archive:
        archive.add(published / "jpg", "jpg")
    shutil.rmtree(published / "jpg")
    scipy.io.savemat(published / "imagelabels.mat", {"labels": np.array([LABELS], dtype=np.uint8)})
    scipy.io.savemat(published / "setid.mat", {name: np.array([ids]) for name, ids in SPLITS.items()})
    checksums = {
        kind: (name, hashlib.md5((published / name).read_bytes(), usedforsecurity=False).hexdigest())
        for kind, (name, _) in Flowers102._file_dict.items()
    }
    monkeypatch.setattr(Flowers102, "_file_dict", checksums)
    handler = functools.partial(_Silent, directory=str(published))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(Flowers102, "_download_url_prefix", f"http://127.0.0.1:{server.server_port}/")
        yield Mirror(published, empty_cache / "flowers-102")
        server.shutdown()


def test_official_splits_have_class_names(mirror: Mirror, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    splits = load("oxford-flowers-102")
    assert_format(splits, "train", "validation", "test")
    assert class_names_of(splits["train"]) == Flowers102.classes
    assert splits["train"]["label"][:] == [1, 0, 101]
    assert [label_names_of(split) for split in splits.values()] == [
        ["hard-leaved pocket orchid", "pink primrose", "blackberry lily"],
        ["hard-leaved pocket orchid", "pink primrose", "blackberry lily"],
        ["hard-leaved pocket orchid", "pink primrose", "blackberry lily"],
    ]
    assert file_names_of(splits["train"]) == ["image_00004.jpg", "image_00001.jpg", "image_00003.jpg"]
    assert splits["test"][0]["image"] == {"bytes": None, "path": str(mirror.folder / "jpg" / "image_00009.jpg")}
    assert f"oxford-flowers-102: downloading 345 MB into {mirror.folder}" in caplog.text


def test_second_call_does_not_download(mirror: Mirror, capfd: pytest.CaptureFixture[str]) -> None:
    first = load("oxford-flowers-102")
    assert capfd.readouterr().err == ""  # no progress bars in logs
    shutil.rmtree(mirror.published)
    written = {file: file.stat().st_mtime_ns for file in mirror.folder.rglob("*")}
    assert fingerprint(load("oxford-flowers-102")) == fingerprint(first)
    assert {file: file.stat().st_mtime_ns for file in mirror.folder.rglob("*")} == written


def test_files_copied_by_hand_are_used_without_a_download(mirror: Mirror) -> None:
    shutil.move(mirror.published, mirror.folder)
    assert len(load("oxford-flowers-102")["test"]) == 3


def test_images_extracted_by_torchvision_are_used_without_the_archive(mirror: Mirror) -> None:
    load("oxford-flowers-102")
    shutil.rmtree(mirror.published)
    (mirror.folder / "102flowers.tgz").unlink()
    assert len(load("oxford-flowers-102")["test"]) == 3


def test_error_without_network_lists_the_missing_files_and_the_folder(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.folder.mkdir()
    shutil.move(mirror.published / "setid.mat", mirror.folder)
    monkeypatch.setattr(Flowers102, "_download_url_prefix", "http://127.0.0.1:9/flowers/")
    with pytest.raises(PipelineError) as caught:
        load("oxford-flowers-102")
    assert str(caught.value) == (
        "oxford-flowers-102 cannot be downloaded: <urlopen error [Errno 111] Connection refused>\n"
        "repeat the command, or copy 102flowers.tgz, imagelabels.mat from http://127.0.0.1:9/flowers/ "
        f"into {mirror.folder}"
    )


@pytest.mark.parametrize("name", ["102flowers.tgz", "imagelabels.mat"])
def test_corrupt_download_raises_an_error_and_is_repeated(name: str, mirror: Mirror) -> None:
    contents = (mirror.published / name).read_bytes()
    (mirror.published / name).write_bytes(contents[:-9])
    with pytest.raises(PipelineError, match=r"cannot be downloaded: File not found or corrupted\nrepeat .*, or copy"):
        load("oxford-flowers-102")
    (mirror.published / name).write_bytes(contents)
    assert len(load("oxford-flowers-102")["train"]) == 3


def test_interrupted_extraction_is_repeated(mirror: Mirror) -> None:
    expected = fingerprint(load("oxford-flowers-102"))
    shutil.rmtree(mirror.published)
    (mirror.folder / "jpg" / "image_00005.jpg").unlink()
    (mirror.folder / "jpg" / "image_00006.jpg").write_bytes(b"half")
    assert fingerprint(load("oxford-flowers-102")) == expected


def test_error_names_a_cache_folder_that_cannot_be_written(mirror: Mirror) -> None:
    mirror.folder.write_text("in the way")
    with pytest.raises(PipelineError, match=r"cannot be downloaded: .*File exists: .*flowers-102"):
        load("oxford-flowers-102")


def test_torchvision_has_the_checksums_of_the_original_files() -> None:
    assert Flowers102._file_dict == {
        "image": ("102flowers.tgz", "52808999861908f626f3c1f4e79d11fa"),
        "label": ("imagelabels.mat", "e0620be6f572b9609742df49c70aed4d"),
        "setid": ("setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c"),
    }


@pytest.mark.skipif(not (SHARED / "flowers102-64px").is_dir(), reason="needs the shared Flowers-102 at 64 px")
def test_class_names_match_those_of_another_copy() -> None:
    assert class_names_of(load(SHARED / "flowers102-64px")["train"]) == Flowers102.classes

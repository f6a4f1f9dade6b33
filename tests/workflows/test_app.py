"""`app`: the page answers as `predict`, refuses what it cannot read in one line, and stops when it is asked to."""

import csv
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import PIL.Image
import pytest

from pipeline import app, cli, export, predict
from pipeline.errors import PipelineError
from tests.conftest import noisy_image
from tests.images.hazards import encode

pytest.importorskip("gradio")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = """<img src=x onerror="document.title='hacked'">"""

# What a user does: choose the first example. The page is asked until it shows the answer and the map.
DRIVER = """<script>
const wait = async (find) => {
  for (;;) { const found = find(); if (found) return found; await new Promise((next) => setTimeout(next, 100)); }
};
(async () => {
  const found = { errors: [] };
  addEventListener("error", (event) => found.errors.push(event.message));
  (await wait(() => document.querySelector(".thumbnail-item"))).click();
  const table = await wait(() => document.querySelector(".vp table"));
  await wait(() => [...document.images].some((image) => image.src.includes("image.png") && image.naturalWidth));
  found.names = [...table.querySelectorAll("th")].map((cell) => cell.textContent);
  found.captions = [...document.querySelectorAll(".thumbnail-item")].map((item) => item.textContent.trim());
  found.title = document.title;
  found.width = [document.documentElement.scrollWidth, innerWidth];
  await fetch(new URLSearchParams(location.search).get("report"),
              { method: "POST", mode: "no-cors", body: JSON.stringify(found) });
})();
</script>"""

# Gradio leaves sockets and event loops to the garbage collector, so all pages are in another process.
SERVER = """
import json, sys
from pipeline import app
pages = [app(model) for model in sys.argv[2:]]
launched = [page.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, head=sys.argv[1]) for page in pages]
print(json.dumps([address for _, address, _ in launched]), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def hostile_run(tiny_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    for number, name in enumerate((HOSTILE, "a & b")):
        (root / "photos" / name).mkdir(parents=True)
        for seed in range(12):
            path = root / "photos" / name / f"{number}-{seed}.png"
            path.write_bytes(encode(noisy_image((200 * number, 80, 80), seed)))
    words = [f"--model_name_or_path={tiny_vit}", f"--dataset_name={root / 'photos'}", "--strategy=head"]
    assert cli.main(["train", *words, f"--output_dir={root / 'run'}"]) == 0
    return root / "run"


@pytest.fixture(scope="module")
def exported(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    export(finished_run, output=folder)
    return folder


@pytest.fixture(scope="module")
def addresses(finished_run: Path, exported: Path, hostile_run: Path) -> Iterator[list[str]]:
    """The pages of a run, of its exported file, and of a run with hostile class names."""
    words = [sys.executable, "-c", SERVER, DRIVER, *map(str, (finished_run, exported, hostile_run))]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.stdin.close()


def upload(address: str, image: Path) -> dict[str, Any]:
    boundary = uuid.uuid4().hex
    kind = f'Content-Disposition: form-data; name="files"; filename="{image.name}"'
    body = f"--{boundary}\r\n{kind}\r\n\r\n".encode() + image.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    with urlopen(Request(f"{address}gradio_api/upload", body, headers)) as reply:
        return {"path": json.load(reply)[0], "orig_name": image.name, "meta": {"_type": "gradio.FileData"}}


def ask(address: str, name: str, *inputs: Any) -> Any:
    """Return what a function of the page returns."""
    call = Request(f"{address}gradio_api/call/{name}", json.dumps({"data": inputs}).encode(),
                   {"Content-Type": "application/json"})  # fmt: skip
    with urlopen(call) as reply:
        event = json.load(reply)["event_id"]
    with urlopen(f"{address}gradio_api/call/{name}/{event}", timeout=120) as reply:
        *_, kind, data = filter(None, reply.read().decode().splitlines())
    assert kind == "event: complete"
    return json.loads(data.removeprefix("data: "))


def ranked(answer: str) -> list[tuple[str, str]]:
    """Return the classes of an answer with their percentages."""
    return re.findall(r'<th scope="row">(.*?)</th>.*?<td class="number">([\d.]+)%', answer)


def test_an_answer_is_that_of_predict_with_a_relevance_map(
    addresses: list[str], finished_run: Path, photos: Path
) -> None:
    image = min((photos / "test").rglob("*.png"))
    uploaded = upload(addresses[0], image)
    (answer,) = ask(addresses[0], "predict", uploaded)
    table = predict(finished_run, image)
    column = "calibrated_probability" if "calibrated_probability" in table else "probability"
    assert ranked(answer) == [(row["label"], f"{100 * row[column]:.1f}") for _, row in table.iterrows()]
    assert f"<strong>{', '.join(table['prediction_set'][0])}</strong>" in answer
    (drawn,) = ask(addresses[0], "relevance_map", uploaded)
    with PIL.Image.open(drawn["value"]["path"]) as picture:
        assert picture.size == (320, 320)


def test_an_exported_file_gives_the_answers_of_its_run(addresses: list[str], photos: Path) -> None:
    image = sorted((photos / "test").rglob("*.png"))[4]
    ours, theirs = (ask(address, "predict", upload(address, image))[0] for address in addresses[:2])
    assert ours == theirs
    assert "Prediction set" in ours


@pytest.mark.parametrize("page", [0, 1])
def test_an_image_that_cannot_be_read_is_one_line_on_the_page(page: int, addresses: list[str], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    PIL.Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    for name, reason in (("text.png", "not an image but a text file"), ("huge.png", "exceeds limit of")):
        (answer,) = ask(addresses[page], "predict", upload(addresses[page], tmp_path / name))
        assert reason in answer
        assert f"{name}: " in answer
        assert "\n" not in answer
        assert "table" not in answer


def test_several_images_become_a_csv_file(
    addresses: list[str], finished_run: Path, photos: Path, tmp_path: Path
) -> None:
    images = sorted((photos / "test").rglob("000.png"))
    (tmp_path / "bad.png").write_bytes(b"")
    files = [upload(addresses[0], path) for path in [*images, tmp_path / "bad.png"]]
    table, download, problems = ask(addresses[0], "predict_batch", files)
    with Path(download["value"]["path"]).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    expected = predict(finished_run, images)
    assert [row["label"] for row in rows] == list(expected["label"])
    assert [json.loads(row["prediction_set"]) for row in rows] == list(expected["prediction_set"])
    assert [row[1] for row in table["value"]["data"]] == list(expected.query("rank == 1")["label"])
    assert "<li>bad.png: empty</li>" in problems
    assert "Add images first" in ask(addresses[0], "predict_batch", [])[2]


def test_a_file_that_export_did_not_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(PipelineError, match=r"model\.onnx cannot be used .*: pass a file that `export` wrote"):
        app(tmp_path / "model.onnx")
    with pytest.raises(PipelineError, match=r"--model .*none\.onnx does not exist: pass an existing file"):
        app(tmp_path / "none.onnx")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_busy_port_is_refused_in_one_line(finished_run: Path, vit_pipeline: Callable[..., Any]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = vit_pipeline("app", "--model", finished_run, "--port", port)
    assert (code, out) == (2, "")
    assert err == (
        f"error: cannot listen on 127.0.0.1, port {port} (address already in use): use another --port or --host\n"
    )


def test_a_signal_closes_the_page(finished_run: Path) -> None:
    number, port = signal.SIGTERM, free_port()
    words = [sys.executable, "-m", "pipeline", "app", f"--model={finished_run}", f"--port={port}"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        assert next(line for line in process.stderr if "shows" in line).startswith(f"http://127.0.0.1:{port}/ shows ")
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        assert process.stderr.read() == f"stopped by {number.name}: the page is closed\n"
    finally:
        process.kill()
        process.stderr.close()


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_examples_and_answers_and_runs_no_class_name(
    width: int, addresses: list[str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as report:
        report.settimeout(120)
        address = f"{addresses[2]}?report=http://127.0.0.1:{report.getsockname()[1]}/"
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
        browser = subprocess.Popen(
            [str(CHROMIUM), *options, f"--user-data-dir={tmp_path}", "--remote-debugging-port=0", address],
            stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            connection, _ = report.accept()
            with connection, connection.makefile("rb") as stream:
                found = json.loads(read_body(stream))
        finally:
            browser.kill()
            browser.wait()
    assert found["errors"] == []
    assert sorted(found["names"]) == sorted([HOSTILE, "a & b"])
    assert sorted(found["captions"]) == sorted([HOSTILE, "a & b"])
    assert "hacked" not in found["title"]
    assert found["width"][0] <= found["width"][1]


def read_body(stream: Any) -> bytes:
    length = 0
    for line in iter(stream.readline, b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return bytes(stream.read(length))

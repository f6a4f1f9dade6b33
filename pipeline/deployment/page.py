"""The page that classifies images in a browser. It needs Gradio, and nothing of vit-pipeline.

`app` shows it for any model. `push --space` copies it into a Space as `app.py`, where it runs the exported model that
is next to it, with `predict.py` (`standalone`).
"""

import atexit
import csv
import html
import importlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before the import, which reads it

import gradio as gr

T = TypeVar("T")

TOP_K = 5
SETTINGS = "page.json"
"""Of a Space: what `About` holds."""
MAX_NAMES = 8  # of a prediction set on the page; the table has all

_JOINERS = "\u200c\u200d"  # parts of emoji and of scripts
_STYLE = """
.vp h1 { font-size: 1.6rem; margin: 0 0 .2rem; overflow-wrap: anywhere }
.vp p { margin: 0 0 .6rem; overflow-wrap: anywhere }
.vp table { border: 0 !important; width: 100%; border-collapse: collapse; margin: 0 0 .8rem; table-layout: fixed }
.vp caption { text-align: left; padding-bottom: .3rem }
.vp table :is(tr, th, td) { border: 0 !important; background: none !important }
.vp th, .vp td { padding: .35rem 0 !important; vertical-align: middle }
.vp th { width: 42%; text-align: left; font-weight: 500; padding-right: .8rem; overflow-wrap: anywhere }
.vp tr:first-child th { font-weight: 700 }
.vp td.number { width: 4.4rem; text-align: right; font-variant-numeric: tabular-nums }
.vp .bar { height: .8rem; border-radius: .2rem; background: var(--border-color-primary) }
.vp .bar i { display: block; height: 100%; border-radius: .2rem; background: var(--color-accent) }
.vp p.said { margin-bottom: 1rem; padding: .5rem .8rem; border-left: .3rem solid #b45309; color: var(--body-text-color);
  background: var(--background-fill-secondary) }
.vp-examples .grid-wrap { height: auto !important; min-height: 0 !important; overflow: visible }
.vp-examples .grid-container { height: auto; grid-template-columns: repeat(auto-fill, minmax(72px, 1fr)) !important }
.vp ul { margin: 0 0 .6rem 1.2rem; overflow-wrap: anywhere }
"""


class Answer(NamedTuple):
    """What a model says about an image. A part that it cannot say is None.

    Attributes:
        ranked: The most likely classes with their probabilities, most likely first.
        prediction_set: The classes of the prediction set, most likely first.
        abstain: Whether the confidence is too low to answer.
        unknown: Whether the image is unlike the training images.
    """

    ranked: Sequence[tuple[str, float]]
    prediction_set: Sequence[str] | None = None
    abstain: bool | None = None
    unknown: bool | None = None


Answerer = Callable[[Path], Answer]
"""Returns the answer for an image file. It raises any error with a text of one line if the file cannot be read."""
Drawer = Callable[[Path], Any]
"""Returns the relevance map of an image file as a PIL image, or None if the network cannot be explained."""


@dataclass(frozen=True)
class About:
    """What the page says about its model.

    Attributes:
        title: Name of the model.
        facts: Number of classes, accuracy, calibration, as a sentence.
        coverage: Fraction of the images whose prediction set is meant to contain the true class; None without sets.
        examples: Path and class of each example.
        examples_note: Where the examples are from.
    """

    title: str
    facts: str
    coverage: float | None = None
    examples: Sequence[tuple[str, str]] = ()
    examples_note: str = ""


def build(answer: Answerer, about: About, draw: Drawer | None = None) -> Any:
    """Return the page, a `gradio.Blocks`.

    Args:
        answer: Answers for an image.
        about: What the page says about its model.
        draw: Draws the relevance map of an image, after the answer is shown.
    """
    with gr.Blocks(title=about.title, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        head = f"<style>{_STYLE}</style><h1>{shown(about.title)}</h1><p>{shown(about.facts)}</p>"
        gr.HTML(f'<div class="vp">{head}</div>')
        with gr.Tab("One image"):
            _one_image(answer, about, draw)
        with gr.Tab("Several images"):
            _several_images(answer)
    return page


def _one_image(answer: Answerer, about: About, draw: Drawer | None) -> None:
    empty = '<div class="vp"><p>Add an image to see the most likely classes.</p></div>'

    def show(path: str | None) -> str:
        if path is None:
            return empty
        found = attempt(answer, path)
        if isinstance(found, str):
            return f'<div class="vp"><p class="said" role="alert">{shown(found)}</p></div>'
        return render(found, about.coverage)

    def show_map(path: str | None) -> Any:
        drawn = None if path is None or draw is None else attempt(draw, path)
        return gr.Image(drawn, visible=True) if drawn and not isinstance(drawn, str) else gr.Image(None, visible=False)

    with gr.Row():
        with gr.Column(min_width=280):
            image = _upload()
        with gr.Column(min_width=280):
            result = gr.HTML(empty)
            picture = gr.Image(
                label="What the model looked at: brighter is more relevant", visible=False, interactive=False,
                buttons=["fullscreen"], height=320, format="png",
            )  # fmt: skip
    answered = image.change(show, image, result, api_name="predict")
    if draw is not None:
        answered.then(show_map, image, picture, api_name="relevance_map")
    if about.examples:
        _examples(about, image)


def _examples(about: About, image: Any) -> None:
    gr.HTML(f'<div class="vp"><p>Examples: {shown(about.examples_note)}</p></div>')
    gallery = gr.Gallery(
        [(path, shown(name, quote=False)) for path, name in about.examples],
        label="Examples", show_label=False, columns=8, object_fit="contain", elem_classes="vp-examples",
        allow_preview=False, buttons=[], interactive=False, container=False,
    )  # fmt: skip

    def choose(event: gr.SelectData) -> str:
        path, _ = about.examples[int(event.index)]
        return path

    gallery.select(choose, None, image, api_visibility="private")


def _upload() -> Any:
    image: Any = gr.Image(label="Image", type="filepath", sources=["upload", "clipboard"], height=320, buttons=[])
    # The file is passed on as it is: Gradio would open it, and show Pillow's own errors. A subclass of a component
    # would make Gradio write a file next to this one.
    image.preprocess = lambda payload: payload and payload.path
    return image


def _several_images(answer: Answerer) -> None:
    place = temporary_folder()

    def classify(paths: list[str] | None, progress: Any = gr.Progress()) -> tuple[Any, Any, str]:  # noqa: B008
        header, rows, first, problems = list[str](), list[list[Any]](), list[list[str]](), list[str]()
        for path in progress.tqdm(paths or [], unit="images"):
            found = attempt(answer, path)
            if isinstance(found, str):
                problems.append(found)
                continue
            header, new = table_of(Path(path).name, found)
            rows += new
            label, probability = found.ranked[0]
            first.append(
                [
                    *(shown(text, quote=False) for text in (Path(path).name, label)),
                    f"{100 * probability:.1f}%",
                    "unknown" if found.unknown else "not sure" * bool(found.abstain),
                ]
            )
        listed = "".join(f"<li>{shown(problem)}</li>" for problem in problems)
        text = f"<p>Images that cannot be read:</p><ul>{listed}</ul>" if problems else ""
        text = f'<div class="vp">{text if paths else "<p>Add images first.</p>"}</div>'
        if not rows:
            return gr.Dataframe(visible=False), gr.DownloadButton(visible=False), text
        file = Path(tempfile.mkdtemp(dir=place)) / "predictions.csv"
        file.write_text(as_csv([header, *rows]), encoding="utf-8")
        table = gr.Dataframe(first, headers=["image", "class", "confidence", ""], datatype="str", visible=True)
        return table, gr.DownloadButton(value=str(file), visible=True), text

    files = gr.File(file_count="multiple", label="Images", height=180, elem_id="several")
    start = gr.Button("Classify", variant="primary")
    problems = gr.HTML()
    download = gr.DownloadButton(f"Download predictions.csv ({TOP_K} classes per image)", visible=False)
    table = gr.Dataframe(label="Most likely class", interactive=False, visible=False, wrap=True, buttons=[])
    start.click(classify, files, [table, download, problems], api_name="predict_batch", show_progress_on=problems)


def temporary_folder() -> Path:
    """Return a new folder that is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="vit-pipeline-page-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def attempt(function: Callable[[Path], T], path: str) -> T | str:
    """Return what a function returns for an image, or in one line why it cannot be read."""
    try:
        return function(Path(path))
    except Exception as error:  # noqa: BLE001 (Pillow's decoders raise anything on corrupt bytes)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        name = Path(path).name
        return reason if reason.startswith(f"{name}: ") else f"{name}: {reason}"


def render(answer: Answer, coverage: float | None) -> str:
    """Return an answer as HTML. Class names are shown literally."""
    said = []
    if answer.unknown:
        said.append("Unknown: this image is unlike the training images, so the classes below are guesses.")
    if answer.abstain:
        said.append("Not sure: the confidence is too low to answer.")
    rows = "".join(
        f'<tr><th scope="row">{shown(name)}</th><td><div class="bar"><i style="width:{100 * probability:.1f}%"></i>'
        f'</div></td><td class="number">{100 * probability:.1f}%</td></tr>'
        for name, probability in answer.ranked
    )
    text = "".join(f'<p class="said">{line}</p>' for line in said)
    text += f"<table><caption>Most likely classes</caption><tbody>{rows}</tbody></table>"
    if answer.prediction_set is not None:
        names = [shown(name) for name in answer.prediction_set]
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        promise = f" (contains the true class of {100 * coverage:g}% of such images)" if coverage else ""
        text += f"<p>Prediction set{promise}: <strong>{', '.join(names[:MAX_NAMES])}{more}</strong></p>"
    return f'<div class="vp">{text}</div>'


def shown(text: str, *, quote: bool = True) -> str:
    """Return a text as HTML that shows it literally, with the number of each character that has no picture."""
    visible = "".join(c if c.isprintable() or c in _JOINERS else f"⟨U+{ord(c):04X}⟩" for c in text)
    return html.escape(visible) if quote else visible


def table_of(name: str, answer: Answer) -> tuple[list[str], list[list[Any]]]:
    """Return the header and the rows of the table for an image: one row for each class."""
    verdicts: dict[str, Any] = {"abstain": answer.abstain, "unknown": answer.unknown}
    if answer.prediction_set is not None:
        verdicts = {"prediction_set": json.dumps([*answer.prediction_set], ensure_ascii=False)} | verdicts
    verdicts = {key: value for key, value in verdicts.items() if value is not None}
    rows = [
        [name, rank, label, round(probability, 6), *verdicts.values()]
        for rank, (label, probability) in enumerate(answer.ranked, start=1)
    ]
    return ["image", "rank", "label", "probability", *verdicts], rows


def as_csv(rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as CSV in which no cell is run as a formula by a spreadsheet."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue()


def _harmless(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    text = shown(cell, quote=False)
    return f"'{text}" if text.lstrip()[:1] in tuple("=+-@") else text


def answerer_of(model: Any, read: Callable[[Path], Any] = lambda path: path) -> Answerer:
    """Return what answers with an exported model.

    Args:
        model: A `standalone.ExportedClassifier`.
        read: Returns what it predicts for a file: the path, or an image.
    """

    def answer(path: Path) -> Answer:
        (result,) = model.predict([read(path)])
        probabilities, members = result["probabilities"], result["prediction_set"]
        names = model.class_names
        return Answer(
            [(names[each], float(probabilities[each])) for each in (-probabilities).argsort(kind="stable")[:TOP_K]],
            None if members is None else [names[each] for each in members],
            result["abstain"],
            result["unknown"],
        )

    return answer


def main() -> None:
    """Show the exported model that is next to this file, as the settings next to it say."""
    folder = Path(__file__).parent
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    model = importlib.import_module("predict").ExportedClassifier(folder / settings.pop("model"))
    examples = [(str(folder / name), label) for name, label in settings.pop("examples")]
    build(answerer_of(model), About(**settings, examples=examples)).launch(footer_links=["gradio"])


if __name__ == "__main__":
    main()

"""Random images, flags, YAML files, class names, model files and training settings: a result or a clean error.

`python -m tests.benchmarks.fuzz --examples 5000` runs the same properties, and those of folders and tables, for longer.
"""

import contextlib
import dataclasses
import functools
import io
import json
import shutil
import signal
import tempfile
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import PIL.Image
from hypothesis import given

from pipeline import config
from pipeline.arguments.inherited import OPTIMIZERS, REJECTED, SCHEDULES
from pipeline.arguments.settings import GROUPS, Settings
from pipeline.arguments.training import TrainerFlags
from pipeline.config.verbs import VERBS
from pipeline.data.labels.class_names import read_class_names
from pipeline.errors import BadImageError, PipelineError, explain_outside_error
from pipeline.images.decode import check_image, open_image, supported_formats
from pipeline.models.classifier import ImageClassifier
from pipeline.training.rehearsal import rehearse
from tests.conftest import noisy_image, save_vit
from tests.data.properties import examples

_SECONDS = 20  # that one example may take


@contextlib.contextmanager
def within_limit() -> Iterator[None]:
    """Raise an error if the block takes too long."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no end within {_SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def clean_errors() -> Iterator[None]:
    """Accept an error for users, if its text has no hidden characters."""
    text = "no error"
    with within_limit():
        try:
            yield
        except PipelineError as error:
            text = str(error)
        except OSError as error:  # the command line shows these as one line
            text = explain_outside_error(error) or ""
    assert text.strip()
    assert "\x1b" not in text


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """Return valid contents after a few changes: bytes are inserted, overwritten, repeated or cut."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        piece = draw(st.binary(max_size=6) | st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\x01"]))
        data[start : start + draw(st.sampled_from([0, len(piece), len(piece), len(piece), 1, len(data)]))] = piece
    return bytes(data)


@functools.cache
def _valid_image(image_format: str, mode: str) -> bytes:
    stream = io.BytesIO()
    noisy_image((200, 50, 40), 1, (24, 16)).convert(mode).save(stream, image_format)
    return stream.getvalue()


_IMAGES = [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"), ("GIF", "P")]
_IMAGES += [("BMP", "RGB"), ("TIFF", "RGB"), ("TIFF", "F"), ("WEBP", "RGBA"), ("PPM", "L"), ("AVIF", "RGB")]


@st.composite
def images(draw: st.DrawFn) -> bytes:
    image_format, mode = draw(st.sampled_from([each for each in _IMAGES if each[0] in supported_formats()]))
    source = _valid_image(image_format, "L" if mode == "I;16" else mode)
    return draw(mutated(source))


@examples(300)
@given(images())
def test_any_image_bytes_are_read_or_named(data: bytes) -> None:
    value = {"bytes": data, "path": None}
    limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, 2**20  # larger images only take longer
    try:
        with within_limit():
            checked, read = (
                _error_of(lambda: check_image(value, name="x")),
                _error_of(lambda: open_image(value, name="x")),
            )
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = limit
    assert checked or not read, "what the check before training accepts must be readable afterwards"
    assert all(text.startswith("x: ") and len(text.splitlines()) == 1 for text in (checked, read) if text)


def _error_of(call: Callable[[], object]) -> str:
    try:
        call()
    except BadImageError as error:
        return str(error)
    return ""


_NAMES = sorted(
    {field.name for verb in VERBS.values() for group in verb.classes for field in dataclasses.fields(group)}
)
_VALUES = st.sampled_from(
    ["", "0", "1", "-1", "0.5", "1e9", "nan", "inf", "true", "none", "auto", "{}", '{"a": 1}', "[1]", "x", "a/b", "/",
     "~", "\x1b[31m", "\0", "=1", "steps", "no", "9" * 400, "é", "--", "synthetic-flowers", "hf_AbCdEfGhIjKlMnOp"]
) | st.text(max_size=6)  # fmt: skip


@st.composite
def words(draw: st.DrawFn) -> list[str]:
    found = []
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(_NAMES) | st.text(max_size=6))
        found += draw(
            st.sampled_from(
                [[f"--{name}={draw(_VALUES)}"], [f"--{name}", draw(_VALUES)], [f"--{name}"], [draw(_VALUES)]]
            )
        )
    return found


@examples(250)
@given(st.sampled_from(sorted(VERBS)), words())
def test_any_command_line_is_read_or_refused(verb: str, line: list[str]) -> None:
    with clean_errors():
        read = config.read_command_line(verb, line)
        config.check(read)
        if verb == "train":
            Settings(*config.parse(read, GROUPS))


_YAML = [
    b"key: value\n",
    b"seed: 1\n",
    b"- a\n",
    b"{",
    b"[",
    b"&a ",
    b"*a",
    b"!!python/object:os.system ",
    b"? ",
    b"|\n",
]
_YAML += [
    b"\t",
    b"\xff",
    b"\0",
    b"learning_rate: {a: 1}\n",
    b"hub_token: hf_AbCdEfGhIjKlMnOp\n",
    b"<<: *a\n",
    b"a: &a [*a]\n",
]


@examples(200)
@given(st.lists(st.sampled_from(_YAML) | st.binary(max_size=5), max_size=6))
def test_any_recipe_is_read_or_refused(pieces: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder, clean_errors():
        (Path(folder) / "r.yaml").write_bytes(b"".join(pieces))
        config.check(config.read_command_line("train", [f"--config={folder}/r.yaml"]))


_CLASS_NAMES = b"old,new\nrose,Rose\n1,one\n"


@examples(150)
@given(mutated(_CLASS_NAMES) | st.binary(max_size=40), st.sampled_from(["txt", "csv", "tsv", "json"]))
def test_any_file_of_class_names_is_read_or_refused(data: bytes, extension: str) -> None:
    with tempfile.TemporaryDirectory() as folder, clean_errors():
        file = Path(folder) / f"names.{extension}"
        file.write_bytes(data)
        read_class_names(str(file))


@functools.cache
def _model() -> Path:
    return save_vit(Path(tempfile.mkdtemp()) / "model", num_labels=3)


_JSON = st.sampled_from(
    [0, -1, 1, 2, 99, 1.5, 10**7, 10**12, 1e300, float("nan"), "x", "", None, True, [], {}, [1, 2], [[1]],
     {"height": 0}, {"a": {"b": 1}}, "\x1b[31m"]
)  # fmt: skip


@st.composite
def model_changes(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    file = draw(st.sampled_from(["config.json", "preprocessor_config.json"]))
    keys = sorted(json.loads((_model() / file).read_text()))
    changed = draw(
        st.lists(st.sampled_from([*keys, "auto_map", "quantization_config", "vision_config"]), min_size=1, max_size=2)
    )
    return file, {key: draw(_JSON) for key in changed}


@examples(100)
@given(model_changes())
def test_any_model_file_is_loaded_or_refused(change: tuple[str, dict[str, Any]]) -> None:
    file, values = change
    with tempfile.TemporaryDirectory() as parent, clean_errors():
        folder = Path(shutil.copytree(_model(), Path(parent) / "model"))
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | values))
        ImageClassifier.load(folder).predict(noisy_image((200, 0, 0), 1))


_TRAINER = typing.get_type_hints(TrainerFlags)
_TEXTS = {"optim": OPTIMIZERS, "lr_scheduler_type": SCHEDULES}
_KINDS: dict[Any, list[str]] = {bool: ["true", "false"], int: ["0", "1", "2", "-1", "7"]}
_KINDS[float] = ["0", "0.5", "1", "2", "-1", "1e-3"]


@st.composite
def trainer_flags(draw: st.DrawFn) -> list[str]:
    names = sorted(_TRAINER.keys() - REJECTED.keys() - {"output_dir", "push_to_hub", "report_to"})
    found = []
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)):
        kinds = [kind for kind in typing.get_args(_TRAINER[name]) or (_TRAINER[name],) if kind is not type(None)]
        literal = typing.get_args(_TRAINER[name]) if typing.get_origin(_TRAINER[name]) is typing.Literal else ()
        texts = ["x", "{}", '{"a": 1}', "1", "steps", ""]
        found.append(f"--{name}={draw(st.sampled_from(_TEXTS.get(name) or literal or _KINDS.get(kinds[0], texts)))}")
    return found


@examples(150)
@given(trainer_flags())
def test_any_training_settings_are_accepted_by_the_trainer_or_refused(flags: list[str]) -> None:
    with clean_errors():
        line = config.read_command_line("train", ["--dataset_name=synthetic-flowers", *flags])
        rehearse(Settings(*config.parse(line, GROUPS)).trainer)

"""`app`: a run, a Hub model or an exported file -> a page that classifies images in a browser."""

import gc
import logging
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import config, distributed
from pipeline.arguments.verbs import AppArguments
from pipeline.config import CommandLine
from pipeline.config.names import exported_file
from pipeline.errors import PipelineError, Terminated
from pipeline.imports import fast_imports
from pipeline.signals import Stopped

if TYPE_CHECKING:
    import gradio

    from pipeline.deployment.page import About, Answerer, Drawer

logger = logging.getLogger(__name__)

ARGUMENTS = (AppArguments,)


def app(model: str | Path, *, model_revision: str = "main") -> "gradio.Blocks":
    """Return the page of a model. `app(model).launch()` shows it.

    Args:
        model: Run folder, Hub id, or exported file or folder.
        model_revision: Branch, tag or commit of a Hub model.

    Raises:
        PipelineError: If the model cannot be loaded, or Gradio is not installed.
    """
    line = config.checked_call("app", None, {"model": model, "model_revision": model_revision})
    (args,) = config.parse(line, ARGUMENTS)
    return _page(args)


def run(line: CommandLine) -> str:
    """Run the verb: show the page until a signal arrives.

    Raises:
        PipelineError: If the model cannot be loaded, or the port is in use.
        Terminated: If a signal arrived.
    """
    (args,) = config.parse(line, ARGUMENTS)
    if distributed.world_size() > 1:
        raise PipelineError("app runs in one process: start it without `accelerate launch`")
    _require_free(args.host, args.port)
    with fast_imports():
        page = _page(args)
        gc.freeze()  # otherwise the first answer waits until the collector has looked at all modules
    try:
        _, address, _ = page.launch(
            server_name=args.host, server_port=args.port, prevent_thread_lock=True, share=False, quiet=True,
            inbrowser=False, ssr_mode=False, footer_links=["gradio"],
        )  # fmt: skip
        logger.info("%s shows %s; stop it with Ctrl-C", address, args.model)
        threading.Event().wait()
    except Stopped as stop:
        raise Terminated("the page is closed", stop.number) from stop
    finally:
        gc.unfreeze()  # some extensions complain about objects that are frozen when Python ends
        page.close(verbose=False)
    return ""


def _require_free(host: str, port: int) -> None:
    """Check that the page can listen, before the model is loaded.

    Raises:
        PipelineError: If it cannot.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise PipelineError(
            f"cannot listen on {host}, port {port} ({(error.strerror or str(error)).lower()}): use another --port or "
            "--host"
        ) from error


def _page(args: AppArguments) -> "gradio.Blocks":
    from pipeline.deployment.page import build, temporary_folder

    place, exported = temporary_folder(), exported_file(str(args.model))
    page: gradio.Blocks = build(*(_of_network(args, place) if exported is None else _of_file(exported, place)))
    return page


def _of_network(args: AppArguments, place: Path) -> "tuple[Answerer, About, Drawer | None]":
    # An exported file needs none of these libraries, which take seconds to import.
    from pipeline import hub
    from pipeline.deployment.about import describe
    from pipeline.deployment.network import NetworkAnswers
    from pipeline.models.classifier import ImageClassifier

    name = str(args.model)
    classifier = ImageClassifier.load(name, revision=args.model_revision)
    answers, known = NetworkAnswers(classifier), classifier.uncertainty
    about = describe(
        Path(name).absolute().name if Path(name).is_dir() else name,
        len(classifier.class_names),
        calibrated=known is not None and known.temperature is not None,
        coverage=known.coverage if known and known.aps_threshold is not None else None,
        run=hub.find_model(name, revision=args.model_revision),
        place=place,
    )
    return answers.answer, about, answers.draw


def _of_file(file: Path, place: Path) -> "tuple[Answerer, About, Drawer | None]":
    from pipeline.deployment.about import describe_exported
    from pipeline.deployment.page import answerer_of
    from pipeline.deployment.standalone import ExportedClassifier
    from pipeline.images.decode import open_image
    from pipeline.images.depth import GrayscaleDepth

    try:
        model = ExportedClassifier(file)
    except Exception as error:
        raise PipelineError(
            f"{file} cannot be used ({str(error).splitlines()[0]}): pass a file that `export` wrote"
        ) from error
    bits = model.settings["grayscale_bits"]
    answer = answerer_of(model, lambda path: open_image(path, name=path.name, depth=GrayscaleDepth(bits)))
    return answer, describe_exported(model.settings, file, place), None

"""Flags of the verbs other than `train`. Torch-free."""

from dataclasses import dataclass
from typing import Literal

from pipeline.arguments.flags import flag

NO_MODEL = "no model given: pass --model RUN or a Hub id"


@dataclass
class EvaluateArguments:
    """Which model to score, on which split, and where the metrics are written."""

    model: str | None = flag(None, "Run folder or Hub id.")
    model_revision: str = flag("main", "Branch, tag or commit of a Hub model.")
    against: str | None = flag(
        None, "Run folder or Hub id of a second model: compares both on the same images (exact McNemar test)."
    )
    split: Literal["train", "validation", "test", "all"] | None = flag(
        None, "Which split. Default: test if there is one, else validation, else all images."
    )
    output_dir: str | None = flag(
        None,
        "Folder for all_results.json, predictions.parquet and, with --against, discordant.csv (images on which only "
        "one model is correct). Default: print the metrics only.",
    )


@dataclass
class PredictArguments:
    """Which model, how many labels per image, and where the table is written."""

    model: str | None = flag(None, "Run folder or Hub id.")
    model_revision: str = flag("main", "Branch, tag or commit of a Hub model.")
    class_names: str | None = flag(
        None, "File that renames the classes of the model: LABEL,NAME lines, or one name per line."
    )
    top_k: int = flag(5, "Number of labels per image.", minimum=1)
    output: str | None = flag(
        None,
        "Write FILE.csv, FILE.jsonl or FILE.parquet. Default: print a table. In CSV, a text that begins with =, +, - "
        "or @ gets an apostrophe in front.",
    )
    errors: str | None = flag(None, "Write the skipped images with reasons to FILE.csv or FILE.jsonl.")
    watch: str | None = flag(
        None,
        "Folder whose images are labeled as they arrive, each once, until Ctrl-C. Rows are appended to --output "
        "FILE.csv, which names images by their paths in the folder. The same command continues it.",
    )
    bad_images: Literal["fail", "skip"] = flag(
        "skip", "What to do with images that cannot be read: skip them and list them at the end, or fail at the first."
    )


@dataclass
class ExplainArguments:
    """Which model, which classes, and where the pictures are written."""

    model: str | None = flag(None, "Run folder or Hub id.")
    model_revision: str = flag("main", "Branch, tag or commit of a Hub model.")
    output: str | None = flag(None, "New folder for the pictures and explanations.csv.")
    class_name: str | None = flag(None, "Class that gets a relevance map in addition to the predicted one.")
    arrays: bool = flag(False, "Write the relevance maps and attention of each image to an .npz file too.")
    batch_size: int = flag(8, "Images per forward pass.", minimum=1)
    random_maps: int = flag(
        3,
        "Random maps that each relevance map is compared with, by the areas under the deletion and insertion curves. "
        "Most of the time is spent on them. With 0, the maps are not compared.",
        minimum=0,
    )
    tour: str | None = flag(
        None, "Image that tour.html follows through the network, from patches to labels (ViT, DeiT, BEiT, DINOv2, ...)."
    )
    layer: int | None = flag(
        None, "Layer whose queries, keys and values --tour shows, from 1. Default: the last.", minimum=1
    )
    head: int | None = flag(None, "Attention head that --tour shows, from 1. Default: the first.", minimum=1)
    bad_images: Literal["fail", "skip"] = flag(
        "fail",
        "Images that cannot be read are listed after all others are explained: as an error (fail) or a warning (skip).",
    )


@dataclass
class ExportArguments:
    """Which run is exported, to which files, and how much accuracy they may lose."""

    model: str | None = flag(None, "Run folder.")
    output: str | None = flag(None, "New folder for the files. Default: onnx in the run folder.")
    format: Literal["onnx"] = flag("onnx", "Format of the files.")
    precision: list[Literal["fp32", "fp16", "int8"]] = flag(
        factory=lambda: ["fp32"],
        help="One or several of fp32, fp16 and int8 (static quantization, calibrated on training images).",
    )
    max_accuracy_drop: float = flag(
        0.5,
        "Validation accuracy, in points, that a file may lose. A file that loses more is refused, and so is one that "
        "loses more than 5 points and 3 images on any class.",
        minimum=0,
        maximum=100,
    )


@dataclass
class AppArguments:
    """Which model the page shows, and where it listens."""

    model: str | None = flag(None, "Run folder, Hub id, or exported file or folder.")
    model_revision: str = flag("main", "Branch, tag or commit of a Hub model.")
    host: str = flag("127.0.0.1", "Address that the page listens on. With 0.0.0.0, other machines can open the page.")
    port: int = flag(7860, "Port that the page listens on.", minimum=1, maximum=65535)


@dataclass
class DoctorArguments:
    """How the findings are printed."""

    json: bool = flag(False, "Print the findings as JSON.")


@dataclass
class RaceArguments:
    """Which backbones are compared, and how many of them are fine-tuned."""

    backbones: list[str] = flag(
        factory=list,
        help="Models to compare (Hub ids, local folders), or a shipped list: tutorial, small or best.",
    )
    finalists: int = flag(
        2,
        "Number of backbones that are fine-tuned: those with the most accurate linear probes on validation. 0: linear "
        "probes only.",
        minimum=0,
    )


@dataclass
class ReportArguments:
    """Which run is shown."""

    model: str | None = flag(None, "Run folder.")


@dataclass
class PushArguments:
    """Which run is uploaded to which Hub repository."""

    model: str | None = flag(None, "Run folder.")
    hub_model_id: str | None = flag(None, "Hub repository OWNER/NAME.")
    hub_private_repo: bool = flag(False, "Create the repository as private.")
    hub_revision: str = flag("main", "Branch to push to. It is created if it does not exist.")
    create_pr: bool = flag(False, "Open a pull request in an existing repository.")
    space: bool = flag(
        False,
        "Push a Space of the same name too: a page that classifies images with the exported model of the run (run "
        "`export --model RUN` before).",
    )
    dry_run: bool = flag(False, "List the files and their sizes, and upload nothing.")

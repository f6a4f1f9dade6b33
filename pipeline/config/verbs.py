"""The verbs: what the command line says about each, and its flags, before its workflow is imported."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.arguments.data import DataArguments
from pipeline.arguments.images import ImageArguments
from pipeline.arguments.model import ModelArguments
from pipeline.arguments.selection import SelectionArguments
from pipeline.arguments.strategy import ObjectiveArguments, StrategyArguments
from pipeline.arguments.training import TrainerFlags
from pipeline.arguments.verbs import (
    AppArguments,
    DoctorArguments,
    EvaluateArguments,
    ExplainArguments,
    ExportArguments,
    PredictArguments,
    PushArguments,
    RaceArguments,
    ReportArguments,
)


@dataclass(frozen=True)
class Verb:
    """What the command line says about a verb before its workflow is imported.

    Attributes:
        summary: What it does.
        usage: Its arguments in one line.
        groups: Title in its help -> dataclass of flags, torch-free.
        takes_images: Whether words without a flag are images.
    """

    summary: str
    usage: str
    groups: Mapping[str, type]
    takes_images: bool = False

    @property
    def classes(self) -> tuple[type, ...]:
        """The dataclasses of its flags."""
        return tuple(self.groups.values())


_TRAINING = {
    "model": ModelArguments,
    "data": DataArguments,
    "training": TrainerFlags,
    "strategy": StrategyArguments,
    "images": ImageArguments,
    "loss and sampling": ObjectiveArguments,
    "choices measured on validation": SelectionArguments,
}

VERBS = {
    "doctor": Verb(
        "check environment, data, model, memory and time before a training, with the flags of train",
        "[--config RECIPE|FILE.yaml] [--flag value ...] [--json True]",
        {"output": DoctorArguments, **_TRAINING},
    ),
    "train": Verb(
        "fine-tune a model, keep the best checkpoint on validation, and score it once on test",
        "[--config RECIPE|FILE.yaml] [--flag value ...]",
        _TRAINING,
    ),
    "race": Verb(
        "compare backbones on your images: linear probes, and fine-tuning of the best, with the flags of train",
        "--backbones MODEL ...|tutorial|small|best [--finalists 2] [--config RECIPE|FILE.yaml] [--flag value ...]",
        {"race": RaceArguments, **_TRAINING},
    ),
    "evaluate": Verb(
        "score a run or a Hub model on any labeled images",
        "--model RUN|HUB_ID [--against RUN|HUB_ID] [--dataset_name DATA] [--split test] [--output_dir DIR]",
        {"model": EvaluateArguments, "data": DataArguments},
    ),
    "predict": Verb(
        "rank labels for images, folders and glob patterns",
        "--model RUN|HUB_ID IMAGE|FOLDER|GLOB ... [--top_k 5] [--output FILE.csv|.jsonl|.parquet] [--watch FOLDER]",
        {"model": PredictArguments},
        takes_images=True,
    ),
    "explain": Verb(
        "draw what the model looked at in each image, and how far that can be trusted",
        "--model RUN|HUB_ID IMAGE|FOLDER|GLOB ... --output FOLDER [--class_name NAME] [--tour IMAGE]",
        {"model": ExplainArguments},
        takes_images=True,
    ),
    "export": Verb(
        "write a finished run as ONNX files that need no torch, compared with it on validation",
        "--model RUN [--output FOLDER] [--precision fp32 fp16 int8] [--max_accuracy_drop 0.5]",
        {"model": ExportArguments, "data": DataArguments},
    ),
    "app": Verb(
        "show a page that classifies images in a browser, for a run, a Hub model or an exported file",
        "--model RUN|HUB_ID|FILE.onnx [--port 7860]",
        {"model": AppArguments},
    ),
    "report": Verb(
        "write the page report.html of a finished run again",
        "--model RUN",
        {"model": ReportArguments},
    ),
    "push": Verb(
        "upload a finished run to the Hub",
        "--model RUN --hub_model_id OWNER/NAME [--space] [--dry_run]",
        {"model": PushArguments},
    ),
}

"""Flags of the verbs other than `train`."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class EvaluateArguments:
    """Which model to score, on which split, and where the figures go."""

    model: str | None = field(default=None, metadata={"help": "Run folder or Hub id."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a Hub model."})
    split: Literal["train", "validation", "test", "all"] | None = field(
        default=None,
        metadata={"help": "Which split. The test split, or else validation, or else all images."},
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for all_results.json and predictions.parquet. None: only print."},
    )


@dataclass
class PredictArguments:
    """Which model, how many labels, and where the table goes."""

    model: str | None = field(default=None, metadata={"help": "Run folder or Hub id."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a Hub model."})
    top_k: int = field(default=5, metadata={"help": "How many labels an image."})
    output: str | None = field(
        default=None,
        metadata={"help": "Write FILE.csv, FILE.jsonl or FILE.parquet. None: a table on the terminal."},
    )
    bad_images: Literal["fail", "skip"] = field(
        default="fail", metadata={"help": "What an image that cannot be read does: stop, or be left out."}
    )


@dataclass
class PushArguments:
    """Which run goes to which Hub repository."""

    model: str | None = field(default=None, metadata={"help": "Run folder."})
    hub_model_id: str | None = field(default=None, metadata={"help": "OWNER/NAME on the Hub."})
    hub_private_repo: bool = field(default=False, metadata={"help": "Make the repository private."})
    hub_revision: str = field(default="main", metadata={"help": "Branch to push to."})

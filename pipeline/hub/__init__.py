"""The Hugging Face Hub: download models and datasets, and push a finished run."""

from pipeline.hub.download import StreamedDataset, find_model, load_hub_dataset, stream_hub_dataset
from pipeline.hub.push import check_may_push, missing_right, push_run

__all__ = [
    "StreamedDataset",
    "check_may_push",
    "find_model",
    "load_hub_dataset",
    "missing_right",
    "push_run",
    "stream_hub_dataset",
]

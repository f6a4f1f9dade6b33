"""Fine-tune Vision Transformers with the Hugging Face Trainer, and measure honestly what they can do.

    from pipeline import load, train

    run = train(config="flowers102", seed=1)
    run.metrics["test_accuracy"], run.predictions
    load(run.folder).predict(["a.jpg", "b.jpg"], top_k=3)

The names are imported when they are first used, so `import pipeline` loads neither torch nor transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.models.classifier import ImageClassifier
    from pipeline.models.pooled.network import PooledForImageClassification
    from pipeline.reporting.run import Run
    from pipeline.workflows.app import app
    from pipeline.workflows.doctor import doctor
    from pipeline.workflows.evaluate import evaluate
    from pipeline.workflows.explain import explain
    from pipeline.workflows.export import export
    from pipeline.workflows.load import load, load_splits
    from pipeline.workflows.predict import predict
    from pipeline.workflows.race import race
    from pipeline.workflows.report import report
    from pipeline.workflows.train import train

__all__ = [
    "ImageClassifier",
    "PooledForImageClassification",
    "Run",
    "app",
    "doctor",
    "evaluate",
    "explain",
    "export",
    "load",
    "load_splits",
    "predict",
    "race",
    "report",
    "train",
]

_HOMES = {
    "ImageClassifier": "pipeline.models.classifier",
    "PooledForImageClassification": "pipeline.models.pooled.network",
    "Run": "pipeline.reporting.run",
    "app": "pipeline.workflows.app",
    "doctor": "pipeline.workflows.doctor",
    "evaluate": "pipeline.workflows.evaluate",
    "explain": "pipeline.workflows.explain",
    "export": "pipeline.workflows.export",
    "load": "pipeline.workflows.load",
    "load_splits": "pipeline.workflows.load",
    "predict": "pipeline.workflows.predict",
    "race": "pipeline.workflows.race",
    "report": "pipeline.workflows.report",
    "train": "pipeline.workflows.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]

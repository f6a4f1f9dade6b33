"""Refit the head: logistic regression on the features of the trained network, calibrated on validation.

This is classifier re-training (arXiv:1910.09217), except that each image counts equally, and not each class.
"""

import datasets

from pipeline import distributed
from pipeline.arguments.settings import Settings
from pipeline.models.classifier import ImageClassifier
from pipeline.probing import linear
from pipeline.probing.baseline import training_features, training_labels
from pipeline.selection.improve import Proposal


def propose(classifier: ImageClassifier, splits: datasets.DatasetDict, settings: Settings) -> Proposal:
    """Propose the trained network with a refitted head.

    Raises:
        PipelineError: If the head is not a single linear layer, or all training images are of one class.
    """
    probe, before = fit(classifier, splits, settings)
    after = probe.chosen["accuracy"]

    def accept() -> ImageClassifier:
        linear.install_head(classifier, probe)
        return classifier

    results = describe(probe) | {"trained_head_eval_accuracy": before}
    return Proposal("the refitted head", before, after, accept, results)


def fit(
    classifier: ImageClassifier, splits: datasets.DatasetDict, settings: Settings
) -> tuple[linear.LinearProbe, float]:
    """Return a refitted head, and the validation accuracy of the present one. All ranks must call it.

    The head is fitted on the features of the complete training images, without augmentation. Its regularization and its
    temperature are chosen on validation.

    Raises:
        PipelineError: If the head is not a single linear layer, or all training images are of one class.
    """
    features = training_features(classifier, splits, settings.trainer)
    train_x, valid_x = features["train"].head, features["validation"].head
    train_y, valid_y, num_classes = training_labels(splits)
    fitted = None
    if distributed.is_main_process():
        fitted = linear.calibrate(linear.fit_probe(train_x, train_y, valid_x, valid_y, num_classes), valid_x, valid_y)
    return distributed.broadcast(fitted), linear.head_accuracy(classifier, valid_x, valid_y)


def describe(probe: linear.LinearProbe) -> dict[str, float]:
    """Return what `all_results.json` gets about a refitted head."""
    chosen = probe.chosen
    return {
        "refit_C": chosen["C"],
        "refit_temperature": chosen["temperature"],
        "refit_eval_accuracy": chosen["accuracy"],
    }

"""Whether an image means something else when it is mirrored, as digits, letters and hands do.

Nothing in a dataset says so, but linear probes show it: they were fitted on the images as they are, so mirrored images
with another meaning are less likely to them. Likelihoods say more than accuracies. On half of the validation images of
the hand signs, mirroring cost 1.8 standard errors of accuracy; on the training images too, it costs 5.9 of likelihood.
"""

import math
from collections.abc import Mapping
from typing import cast

import datasets
import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from pipeline import distributed
from pipeline.arguments.settings import Settings
from pipeline.data.labels.read import read_integers
from pipeline.data.report import LoadedSplits
from pipeline.models.inference import LoaderOptions
from pipeline.performance.device import Precision
from pipeline.probing.features import Array, Features, extract
from pipeline.probing.linear import Labels, LinearProbe, fit_probe
from pipeline.probing.out_of_fold import assign_folds
from pipeline.selection import frozen
from pipeline.selection.auto import Choice
from pipeline.selection.frozen import FrozenProbe

_CROP_SCALE = (
    0.7  # on 600 hand signs, 40 epochs reached 76.5% with it, and 72.5% with 0.4, before the head was refitted
)
_CERTAIN = 2.0  # standard errors
_MAX_IMAGES = 2000  # of each split; on 600 hand signs, 200 validation images were too few to be certain


def choose_without_flips(probe: FrozenProbe, splits: LoadedSplits, settings: Settings) -> list[Choice]:
    """Choose no flips and larger crops if mirrored images are less likely to linear probes; otherwise choose nothing.

    All ranks must call it.

    Args:
        probe: A linear probe of the checkpoint.
        splits: `train` and `validation`, with columns `image`, `label` and `index`.
        settings: Model, precision, batch size and data workers.

    Raises:
        BadImageError: If an image cannot be read.
    """
    rows = {name: _sample(splits[name]) for name in ("train", "validation")}
    classifier = frozen.build(splits, settings, probe.requested)
    plain, mirrored = (
        extract(
            classifier,
            rows,
            LoaderOptions.of(settings.trainer),
            precision=cast(Precision, settings.trainer.precision),
            mirrored=exchanged,
        )
        for exchanged in (False, True)
    )
    labels = {name: read_integers(split) for name, split in rows.items()}
    found = None
    if distributed.is_main_process():
        found = _compare(probe.probe, plain, mirrored, labels, seed=settings.trainer.seed)
    less_likely, before, after = distributed.broadcast(found)
    if not less_likely:
        return []
    images = sum(map(len, rows.values()))
    reason = f"linear probes recognize {before:.1%} of {images} images, and {after:.1%} of them mirrored"
    return [
        Choice("hflip", 0.0, reason),
        Choice("crop_scale", _CROP_SCALE, "in such images, the whole shape often matters"),
    ]


def _sample(split: datasets.Dataset) -> datasets.Dataset:
    """Return the split, or evenly spaced rows of a large one."""
    if len(split) <= _MAX_IMAGES:
        return split
    return split.select(np.linspace(0, len(split) - 1, _MAX_IMAGES).astype(int))


def _compare(
    probe: LinearProbe,
    plain: Mapping[str, Features],
    mirrored: Mapping[str, Features],
    labels: Mapping[str, Labels],
    *,
    seed: int,
) -> tuple[bool, float, float]:
    """Return whether mirrored images are certainly less likely, and the accuracies on the images and their mirrored.

    The probe judges the validation images, and probes of the other folds judge the training images.
    """
    pairs = [_pair(probe, plain["validation"].head, mirrored["validation"].head, labels["validation"])]
    x, mirrored_x, y = plain["train"].head, mirrored["train"].head, labels["train"]
    fold = assign_folds(y, seed=seed)
    for number in np.unique(fold):
        test = fold == number
        if len(np.unique(y[~test])) > 1:  # a probe needs two classes
            of_others = fit_probe(x[~test], y[~test], x[test], y[test], len(probe.bias), grid=(probe.chosen["C"],))
            pairs.append(_pair(of_others, x[test], mirrored_x[test], y[test]))
    likelihood, mirrored_likelihood, correct, mirrored_correct = np.concatenate(pairs, axis=1)
    lost = likelihood - mirrored_likelihood
    certain = _CERTAIN * lost.std() / math.sqrt(len(lost))
    return bool(lost.mean() > certain), float(correct.mean()), float(mirrored_correct.mean())


def _pair(probe: LinearProbe, x: Array, mirrored_x: Array, y: Labels) -> NDArray[np.float64]:
    """Return log likelihoods of images, those of the mirrored images, and whether each of both is recognized."""
    logits = [probe.logits(each).astype(np.float64) for each in (x, mirrored_x)]
    likelihoods = [log_softmax(each, axis=1)[np.arange(len(y)), y] for each in logits]
    return np.stack([*likelihoods, *(each.argmax(axis=1) == y for each in logits)])

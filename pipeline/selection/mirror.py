"""Whether an image means something else when it is mirrored, as digits, letters and hands do.

Nothing in a dataset says so, but a linear probe shows it: it was fitted on the images as they are.
"""

from typing import cast

from pipeline.arguments.settings import Settings
from pipeline.data.labels.read import read_integers
from pipeline.data.report import LoadedSplits
from pipeline.models.inference import LoaderOptions
from pipeline.performance.device import Precision
from pipeline.probing.features import extract
from pipeline.selection import frozen
from pipeline.selection.auto import Choice
from pipeline.selection.frozen import FrozenProbe
from pipeline.selection.trials import standard_error

_CROP_SCALE = (
    0.7  # on 600 hand signs, 40 epochs reached 76.5% with it, and 72.5% with 0.4, before the head was refitted
)
_CERTAIN = 2.0  # standard errors; on 400 hand signs, mirroring costs the probe four of them


def choose_without_flips(probe: FrozenProbe, splits: LoadedSplits, settings: Settings) -> list[Choice]:
    """Choose no flips and larger crops if the probe recognizes mirrored images less often; otherwise choose nothing.

    All ranks must call it.

    Args:
        probe: A linear probe of the checkpoint.
        splits: `validation`, with columns `image`, `label` and `index`.
        settings: Model, precision, batch size and data workers.

    Raises:
        BadImageError: If an image cannot be read.
    """
    validation = splits["validation"]
    features = extract(
        frozen.build(splits, settings, probe.requested),
        {"validation": validation},
        LoaderOptions.of(settings.trainer),
        precision=cast(Precision, settings.trainer.precision),
        mirrored=True,
    )
    mirrored = probe.probe.logits(features["validation"].head).argmax(axis=1) == read_integers(validation)
    before, after = probe.correct.mean(), mirrored.mean()
    if before - after <= _CERTAIN * standard_error(probe.correct, mirrored):
        return []
    return [
        Choice("hflip", 0.0, f"a linear probe recognizes {before:.1%} of validation, and {after:.1%} of it mirrored"),
        Choice("crop_scale", _CROP_SCALE, "in such images, the whole shape often matters"),
    ]

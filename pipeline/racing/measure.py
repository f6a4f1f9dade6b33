"""What a network costs: parameters, FLOPs, images per second in training and in prediction, memory."""

import statistics
import time
from typing import Any

import torch

from pipeline.arguments.settings import Settings
from pipeline.data.report import LoadedSplits
from pipeline.diagnosis import cost
from pipeline.errors import PipelineError
from pipeline.models.classifier import ImageClassifier
from pipeline.performance.batch_size import is_out_of_memory
from pipeline.performance.device import pick_device, synchronize
from pipeline.performance.flops import forward_flops
from pipeline.racing.entry import Cost

_BATCH, _ROUNDS = 32, 3
_SECONDS = 20.0  # of a round; if the first one takes longer, it is the only one


def measure_prediction(classifier: ImageClassifier, *, known: Cost | None = None) -> Cost:
    """Return the cost of a network in prediction. Decoding and resizing are not included.

    Args:
        classifier: The network.
        known: A cost that is returned if it is that of the same architecture at the same resolution.
    """
    size = classifier.input_size
    parameters = sum(weight.numel() for weight in classifier.model.parameters())
    gflops = round(forward_flops(classifier.model, size) / 1e9, 4)
    if known is not None and (known.parameters, known.gflops, known.input_size) == (parameters, gflops, size):
        return known
    return Cost(parameters, gflops, size, None, _prediction_rate(classifier))


def measure_training(
    classifier: ImageClassifier, splits: LoadedSplits, settings: Settings
) -> tuple[float | None, float | None]:
    """Return images per second and GB of GPU memory of three training steps, without the input of the steps.

    Both are None if the network does not support the settings or the step does not fit in memory. The network is
    changed and must not be used afterwards.
    """
    is_gpu = settings.trainer.device.type == "cuda"
    if is_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        step = cost.measure(classifier, splits, settings)
    except PipelineError:  # `train` says why, if the backbone is among the finalists
        return None, None
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None, None
    return round(step.images / step.seconds, 2), round(step.peak_bytes / 1e9, 3) if is_gpu else None


@torch.no_grad()
def _prediction_rate(classifier: ImageClassifier) -> float | None:
    """Return images per second in batches of 32, the median of three rounds after a warmup; None without memory."""
    network: Any = classifier.model  # the decorated `to` of transformers has lost its type
    device, home, seconds = pick_device(), network.device, list[float]()
    pixels = torch.rand(_BATCH, 3, *classifier.input_size)
    try:
        network.to(device).eval()
        while len(seconds) <= _ROUNDS and max(seconds, default=0.0) < _SECONDS:
            start = time.perf_counter()
            network(pixel_values=pixels.to(device)).logits.cpu()
            synchronize(device)
            seconds.append(time.perf_counter() - start)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None
    finally:
        network.to(home)
    return round(_BATCH / statistics.median(seconds[1:] or seconds), 2)

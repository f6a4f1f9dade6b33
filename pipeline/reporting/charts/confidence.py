"""The charts of the confidence: reliability, risk and coverage, prediction sets and unknown images."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.evaluation.confidence import ReliabilityBin, calibration_error, reliability, risk_coverage
from pipeline.evaluation.examples import Scored
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.uncertainty.conformal import chunks
from pipeline.evaluation.uncertainty.metrics import set_sizes, uncertainty_metrics
from pipeline.models.uncertainty import OutOfDistribution, Uncertainty
from pipeline.reporting.charts.chart import Chart, Series, fraction_axis, linear_axis
from pipeline.reporting.charts.curves import Figure, thin
from pipeline.reporting.run_files import RunFiles


def confidence_figures(files: RunFiles, scored: Scored) -> Iterator[Figure]:
    """Yield reliability, risk and coverage, and what the model stores: prediction sets, out-of-distribution scores."""
    stored = files.uncertainty
    results = uncertainty_metrics(scored.predictions, stored) if stored is not None else {}
    yield reliability_figure(scored, stored)
    yield risk_figure(scored, _describe_answers(results))
    if stored is not None and stored.aps_threshold is not None:
        yield _sets_figure(scored.predictions, stored, results)
    if stored is not None and stored.ood is not None and scored.predictions.ood_scores is not None:
        yield _unknown_figure(scored.predictions, stored.ood, results)


def reliability_figure(scored: Scored, stored: Uncertainty | None = None) -> Figure:
    """Return the accuracy of predictions by their confidence, before and after the calibration that is stored."""
    bins = reliability(scored.confidence, scored.correct)
    gap = float(scored.confidence.mean() - scored.correct.mean())
    verdict = "overconfident" if gap > 0 else "underconfident"
    caption = (
        f"Mean confidence is {scored.confidence.mean():.1%}, accuracy {scored.correct.mean():.1%}: on average, the "
        f"model is {verdict} by {abs(100 * gap):.1f} points. Each point stands for about {bins[0].count:,} images."
    )
    has_two = stored is not None and stored.temperature not in (None, 1.0)
    series = [
        Series("perfect" if has_two else "perfect calibration", [(0, 0), (1, 1)], "reference"),
        Series(
            "before, 95% interval" if has_two else "accuracy, 95% interval",
            [(each.confidence, each.accuracy) for each in bins],
            dots=True,
            intervals=[(e.low, e.high) for e in bins],
        ),
    ]
    rows = [_reliability_row("before", each) for each in bins]
    if stored is not None and stored.temperature == 1:
        caption += " Calibration on validation keeps these probabilities."
    elif stored is not None and has_two:
        calibrated = [part.max(axis=1) for _, part in chunks(stored, scored.predictions.logits)]
        after = reliability(confidence := np.concatenate(calibrated), scored.correct)
        errors = [calibration_error(each, scored.correct) for each in (scored.confidence, confidence)]
        series.insert(1, Series("calibrated", [(each.confidence, each.accuracy) for each in after], "other", dots=True))
        rows += [_reliability_row("after", each) for each in after]
        caption += (
            f" The temperature {stored.temperature:.3f}, fitted on validation, changes the calibration error on these "
            f"images from {errors[0]:.4f} to {errors[1]:.4f}."
        )
    return Figure(
        "Reliability",
        Chart(
            "Accuracy of the predictions by their confidence", fraction_axis("confidence"), fraction_axis(""), series
        ),
        caption,
        ("calibration", "confidence", "accuracy", "95% interval", "images"),
        rows,
    )


def _reliability_row(name: str, each: ReliabilityBin) -> tuple[str, ...]:
    interval = f"{each.low:.1%} to {each.high:.1%}"
    return name, f"{each.confidence:.1%}", f"{each.accuracy:.1%}", interval, f"{each.count:,}"


def _sets_figure(predictions: Predictions, stored: Uncertainty, results: Mapping[str, Any]) -> Figure:
    """Return how large the prediction sets are, and how often they contain the true class."""
    series, rows, largest = [], list[tuple[str, ...]](), 1
    for method, style in (("aps", "main"), ("lac", "other")):
        sizes, _ = set_sizes(stored, predictions, method)
        counts, share = np.unique(sizes, return_counts=True)
        points = list(zip(counts.astype(float).tolist(), (np.cumsum(share) / len(sizes)).tolist(), strict=True))
        series.append(Series(method.upper(), thin(points), style))
        largest = max(largest, int(counts[-1]))
        coverage, low, high = (results[f"{method}_coverage{end}"] for end in ("", "_low", "_high"))
        mean, empty = results[f"{method}_set_size"], results[f"{method}_empty_sets"]
        rows.append((method.upper(), f"{coverage:.1%}", f"{low:.1%} to {high:.1%}", f"{mean:.2f}", f"{empty:.1%}"))
    name, coverage, interval, mean, _ = rows[0]
    return Figure(
        "Prediction sets",
        Chart(
            "Share of the images by the size of their prediction set",
            linear_axis("at most this many classes in the set", [0, largest]),
            fraction_axis(""),
            series,
        ),
        f"A prediction set is meant to contain the true class for {stored.coverage:.0%} of the images. The {name} "
        f"sets, which predict shows, contain it for {coverage} of these images ({interval}), with {mean} "
        "classes on average." + _same_images(predictions),
        ("sets", "contain the true class", "95% interval", "mean size", "empty"),
        rows,
    )


def _unknown_figure(predictions: Predictions, stored: OutOfDistribution, results: Mapping[str, Any]) -> Figure:
    """Return the out-of-distribution scores of the images, and the threshold."""
    ranked = np.sort(np.asarray(predictions.ood_scores, dtype=float))
    points = list(zip(ranked.tolist(), (np.arange(1, len(ranked) + 1) / len(ranked)).tolist(), strict=True))
    share, low, high = (results[f"unknown{end}"] for end in ("", "_low", "_high"))
    return Figure(
        "Unknown images",
        Chart(
            "Share of the images by their out-of-distribution score",
            linear_axis("score of at most", [stored.threshold, float(ranked[-1])]),
            fraction_axis(""),
            [
                Series("threshold", [(stored.threshold, 0), (stored.threshold, 1)], "reference"),
                Series("", thin(points)),
            ],
        ),
        f"The score ({stored.method}) is high for images unlike the training images. Predict calls an image unknown "
        f"above {stored.threshold:.4g}, which 5% of images like the validation images exceed; {share:.1%} of these "
        f"images do ({low:.1%} to {high:.1%}).{_same_images(predictions)}",
        ("images", "score of at most"),
        [(f"{part:.0%}", f"{np.quantile(ranked, part):.4g}") for part in (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)],
    )


def _same_images(predictions: Predictions) -> str:
    """Return a warning if the numbers were fitted on the images on which they are measured."""
    return " The threshold was fitted on the same images." if predictions.split == "validation" else ""


def _describe_answers(results: Mapping[str, Any]) -> str:
    """Return what the threshold of the confidence does, or an empty string without one."""
    if "answered_accuracy" not in results:
        return ""
    low, high = results["answered_accuracy_low"], results["answered_accuracy_high"]
    return (
        f" With the stored threshold, the model answers {results['answered']:.1%} of these images, and "
        f"{results['answered_accuracy']:.1%} of the answers are correct ({low:.1%} to {high:.1%})."
    )


def risk_figure(scored: Scored, answers: str = "") -> Figure:
    """Return the error rate among the most confident predictions, by how many of the images they are.

    Args:
        scored: The predictions.
        answers: A sentence about the stored threshold of the confidence.
    """
    curve = risk_coverage(scored.confidence, scored.correct)
    points = thin([(float(share), float(risk)) for share, risk in zip(curve.coverage, curve.risk, strict=True)])
    half = next(risk for coverage, risk in points if coverage >= 0.5)
    parts = [next((point for point in points if point[0] >= tenth / 10 - 1e-9), points[-1]) for tenth in range(1, 11)]
    wrong = linear_axis("", [100 * risk for _, risk in points], write="{:g}%".format)
    return Figure(
        "Risk and coverage",
        Chart(
            "Error rate of the most confident predictions by their share of the images",
            fraction_axis("share of the images that are answered"),
            wrong,
            [Series("", [(coverage, 100 * risk) for coverage, risk in points])],
        ),
        f"If only the more confident half of the images were answered, {half:.1%} of the answers would be wrong, "
        f"compared with {1 - scored.correct.mean():.1%} of all. The area under the curve (AURC) is {curve.area:.4f}."
        + answers,
        ("images answered", "wrong answers"),
        [(f"{coverage:.0%}", f"{risk:.1%}") for coverage, risk in dict.fromkeys(parts)],
    )

"""What the audit found in the data: suspicious labels, repeated images, and the accuracy without leaked ones."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.audit.issues import DUPLICATE, LABEL, LEAKAGE, NEAR_DUPLICATE, Issue, shown_issues
from pipeline.reporting import summary
from pipeline.reporting.markup import data_uri
from pipeline.reporting.run_files import RunFiles
from pipeline.runs.spreadsheet import harmless

_KINDS = {
    LABEL: ("suspicious label", "suspicious labels"),
    DUPLICATE: ("duplicate", "duplicates"),
    NEAR_DUPLICATE: ("near duplicate", "near duplicates"),
    LEAKAGE: ("leaked image", "leaked images"),
}


@dataclass(frozen=True)
class ShownIssue:
    """An issue with its pictures.

    Attributes:
        issue: The line of `issues.csv`.
        image: Address of its thumbnail, None if there is none.
        other: Address of the thumbnail of the image that it repeats, None if there is none.
    """

    issue: Issue
    image: str | None
    other: str | None = None


@dataclass(frozen=True)
class IssueSection:
    """The section of the report.

    Attributes:
        sentences: What was found, in words.
        labels: The most suspicious labels.
        repeated: Repeated images, leaked ones first.
    """

    sentences: list[str]
    labels: list[ShownIssue]
    repeated: list[ShownIssue]


def issue_section(files: RunFiles) -> IssueSection | None:
    """Return the section, or None if the data was not audited."""
    if files.issues is None:
        return None
    thumbnails = {(split, harmless(name)): jpeg for (split, name), jpeg in (files.thumbnails or {}).items()}

    def image(split: str, name: str) -> str | None:
        return data_uri(thumbnails.get((split, name)))

    labels, repeated = shown_issues(files.issues)
    return IssueSection(
        list(audit_sentences(files.record, files.results)),
        [ShownIssue(each, image(each.split, each.file)) for each in labels],
        [ShownIssue(each, image(each.split, each.file), image(each.other_split, each.other_file)) for each in repeated],
    )


def audit_sentences(record: Mapping[str, Any], results: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the audit found. Nothing if the data was not audited."""
    if "audit" not in record:
        return
    counts: dict[str, int] = {}
    for entry in record["audit"]:
        counts[entry["issue"]] = counts.get(entry["issue"], 0) + entry["count"]
    found = [f"{count:,} {_KINDS[kind][count != 1]}" for kind, count in counts.items()]
    yield f"The audit of the data found {_join(found) or 'no issue'}. No person has checked them."
    for prefix in ("eval", "test"):
        if leaked := results.get(f"{prefix}_leaked"):
            split = summary.SPLITS[prefix]
            repeat = "repeats" if leaked == 1 else "repeat"
            yield (
                f"{leaked:,} of the {results[f'{prefix}_samples']:,} {split} images {repeat} an image of an earlier "
                f"split. {_without(results, prefix, split)}"
            )


def _without(results: Mapping[str, Any], prefix: str, split: str) -> str:
    key = f"{prefix}_unleaked_accuracy"
    if key not in results:
        return f"No other {split} image is left."
    images = results[f"{prefix}_unleaked_samples"]
    return f"On the other {images:,} images, {split} accuracy is {summary.format_accuracy(results, key)}."


def _join(items: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))

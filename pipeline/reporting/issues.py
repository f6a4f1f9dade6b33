"""What the audit found in the data: suspicious labels, repeated images, and the accuracy without leaked ones."""

from dataclasses import dataclass

from pipeline.evaluation.audit.issues import Issue, shown_issues
from pipeline.reporting import summary
from pipeline.reporting.markup import data_uri
from pipeline.reporting.run_files import RunFiles
from pipeline.runs.spreadsheet import harmless


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
        list(summary.audit_sentences(files.record, files.results)),
        [ShownIssue(each, image(each.split, each.file)) for each in labels],
        [ShownIssue(each, image(each.split, each.file), image(each.other_split, each.other_file)) for each in repeated],
    )

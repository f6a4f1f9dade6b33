"""A finding, and the text of several."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline.errors import PipelineError, raise_problems

Level = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that was checked.

    Attributes:
        level: `error` if `train` would be refused or would fail, `warning` if it would run but lose time or accuracy.
        subject: `environment`, `data`, `model` or `cost`.
        text: What was found, with its numbers.
        remedy: What to do, as an imperative; empty for `ok` and `note`.
    """

    level: Level
    subject: str
    text: str
    remedy: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the finding as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        text = self.text + (f": {self.remedy}" if self.remedy else "")
        return "\n".join(
            f"{self.level if not number else '':<8} {line}" for number, line in enumerate(text.split("\n"))
        )


def errors_of(subject: str, error: PipelineError) -> Finding:
    """Return the finding for an error of the program itself, whose text says what to do."""
    return Finding("error", subject, str(error))


def reject_errors(findings: Iterable[Finding]) -> None:
    """Raise one error for all findings that are errors.

    Raises:
        PipelineError: If there is such a finding.
    """
    raise_problems(f"{each.text}: {each.remedy}" for each in findings if each.level == "error")


def describe(findings: Sequence[Finding]) -> str:
    """Return the findings as text, by subject, and the verdict."""
    subjects = list(dict.fromkeys(finding.subject for finding in findings))
    parts = [
        "\n".join([subject, *(f"  {line}" for finding in findings if finding.subject == subject
                              for line in str(finding).split("\n"))])
        for subject in subjects
    ]  # fmt: skip
    return "\n\n".join([*parts, verdict(findings)])


def verdict(findings: Iterable[Finding]) -> str:
    """Return one line that says whether `train` can start."""
    levels = [finding.level for finding in findings]
    counts = {level: levels.count(level) for level in ("error", "warning") if level in levels}
    counted = ", ".join(f"{count} {level}{'s' * (count > 1)}" for level, count in counts.items())
    ready = "not ready to train" if "error" in counts else "ready to train"
    return f"{ready}: {counted}" if counted else ready

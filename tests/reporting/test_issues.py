"""The section of the report about labels and duplicates: every text of a user is shown and never run."""

from pathlib import Path

import pytest

from pipeline.evaluation.audit.issues import Issue, write_issues
from pipeline.reporting.report import render
from pipeline.reporting.run_files import RunFiles
from pipeline.runs.files import read_json, write_json
from pipeline.runs.folder import ISSUES, RESULTS, RunFolder
from tests.reporting.made_runs import make_run, random_predictions

NASTY = '=<script>alert("1")</script>'


@pytest.fixture
def run(tmp_path: Path) -> Path:
    predictions = random_predictions("test", 12, 3, ids=[NASTY, *map(str, range(11))])
    return make_run(tmp_path / "run", [predictions], [NASTY, "b", "c"])


def section(run: Path) -> str:
    page = render(RunFiles.read(run))
    return page[page.index('<section id="issues"') : page.index('<section id="confidence"')]


def test_a_run_that_was_not_audited_says_so(run: Path) -> None:
    assert "The data was not audited, because the run folder lacks issues.csv" in section(run)


def test_suspects_and_repeated_images_are_shown_with_their_pictures(run: Path) -> None:
    issues = [
        Issue("test", NASTY, "label", NASTY, "b", 0.99, "3% for the given label"),
        Issue("test", "3", "leakage", "b", "", 1.0, f"same pixels as train {NASTY}", "train", NASTY),
        Issue("test", "4", "duplicate", "b", "", 1.0, "same pixels as test 3", "test", "3"),
    ]
    write_issues(run / ISSUES, issues)
    counts = [{"split": "test", "issue": kind, "count": 1} for kind in ("label", "leakage", "duplicate")]
    RunFolder(run).update(audit=counts)
    unleaked = {"accuracy": 0.75, "accuracy_low": 0.5, "accuracy_high": 0.9, "samples": 11}
    write_json(
        run / RESULTS,
        read_json(run / RESULTS) | {"test_leaked": 1} | {f"test_unleaked_{k}": v for k, v in unleaked.items()},
    )
    text = section(run)
    assert "found 1 suspicious label, 1 leaked image and 1 duplicate. No person has checked them." in text
    assert "1 of the 12 test images repeats an image of an earlier split." in text
    assert "On the other 11 images, test accuracy is 75.00% [50.0, 90.0]." in text
    assert "<script>" not in text
    assert "&#39;=&lt;script&gt;" in text  # as the cell of the table has it
    assert text.count('<div class="two">') == 1  # train has no thumbnails, test has
    assert text.count("<img") == 3
    assert text.index("Leakage: test") < text.index("Duplicate: test")


@pytest.mark.parametrize(("accuracy", "warned"), [(0.372, True), (0.95, False)])
def test_suspects_of_a_weak_model_come_with_its_accuracy(run: Path, accuracy: float, warned: bool) -> None:
    write_issues(run / ISSUES, [Issue("test", "3", "label", "b", "c", 0.99, "3% for the given label")])
    RunFolder(run).update(audit=[{"split": "test", "issue": "label", "count": 1}])
    write_json(run / RESULTS, read_json(run / RESULTS) | {"eval_accuracy": accuracy})
    assert ("correct on only 37.20% of the validation images, so most of the suspicious" in section(run)) == warned


def test_an_audit_without_findings_and_a_broken_table(run: Path) -> None:
    write_issues(run / ISSUES, [])
    RunFolder(run).update(audit=[])
    assert "The audit of the data found no issue." in section(run)
    assert "To correct the data" not in section(run)
    (run / ISSUES).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Exception, match=r"issues.csv cannot be read"):
        RunFiles.read(run)

"""The table of issues: written, edited in a spreadsheet, and read again."""

from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.evaluation.audit.duplicates import Duplicate
from pipeline.evaluation.audit.issues import (
    COLUMNS,
    SHOWN_LABELS,
    AuditedSplit,
    Issue,
    duplicate_issues,
    label_issues,
    read_issues,
    shown_issues,
    write_issues,
)
from pipeline.evaluation.audit.labels import Suspects

SPLITS = {
    "train": AuditedSplit(["cat/a.jpg", "=dog/b.jpg"], ["cat", "dog"]),
    "test": AuditedSplit(["c.jpg", "d.jpg"], ["dog", "dog"]),
}


def test_labels_and_duplicates_are_one_table(tmp_path: Path) -> None:
    suspects = Suspects([1], [0.75], [0], ["out of fold"])
    issues = label_issues("train", SPLITS["train"], suspects, ["cat", "dog"])
    issues += duplicate_issues(
        SPLITS,
        [
            Duplicate(("train", 1), ("train", 0), True, 1.0),
            Duplicate(("test", 1), ("test", 0), False, 0.987654),
            Duplicate(("test", 0), ("train", 1), True, 1.0),
        ],
    )
    assert issues[0] == Issue("train", "=dog/b.jpg", "label", "dog", "cat", 0.75, "out of fold")
    assert [issue.issue for issue in issues[1:]] == ["duplicate", "near duplicate", "leakage"]
    assert issues[1].reason == "same pixels as train cat/a.jpg, which has the label cat"
    assert (issues[1].likely_label, issues[2].likely_label) == ("cat", "")
    assert (issues[2].reason, issues[2].score) == ("near duplicate of test c.jpg", 0.9877)
    assert (issues[3].other_split, issues[3].other_file) == ("train", "=dog/b.jpg")

    write_issues(tmp_path / "issues.csv", issues)
    lines = (tmp_path / "issues.csv").read_text().splitlines()
    header = "split,file,issue,given_label,likely_label,score,reason,other_split,other_file,action"
    assert lines[0] == header == ",".join(COLUMNS)
    assert lines[1] == "train,'=dog/b.jpg,label,dog,cat,0.75,out of fold,,,"
    read = read_issues(tmp_path / "issues.csv")
    assert read[2] == issues[2]
    assert read[0].file == "'=dog/b.jpg"

    saved = (tmp_path / "issues.csv").read_text().replace("0.75", "0,75").splitlines()
    (tmp_path / "issues.csv").write_text("\ufeff" + saved[0].replace(",", ";") + "\ntrain;x;label;a;b;0,75;r;;;drop\n")
    (edited,) = read_issues(tmp_path / "issues.csv")
    assert (edited.score, edited.action) == (0.75, "drop")


def test_an_empty_table_has_a_header_and_a_foreign_one_is_named(tmp_path: Path) -> None:
    write_issues(tmp_path / "issues.csv", [])
    assert (tmp_path / "issues.csv").read_text() == ",".join(COLUMNS) + "\n"
    assert read_issues(tmp_path / "issues.csv") == []
    (tmp_path / "issues.csv").write_text("file,label\na,b\n")
    with pytest.raises(PipelineError, match="has no column split, issue"):
        read_issues(tmp_path / "issues.csv")


def test_the_report_shows_the_worst_labels_of_each_split_and_leaks_first() -> None:
    labels = [Issue(split, f"{n}", "label", "a", "b", 1, "") for split in ("train", "test") for n in range(40)]
    repeated = [Issue("train", "x", kind, "a", "", 1, "") for kind in ("duplicate", "leakage", "near duplicate")]
    shown, pairs = shown_issues([*labels, *repeated])
    assert [(each.split, each.file) for each in shown[:2]] == [("train", "0"), ("train", "1")]
    assert len(shown) == 2 * SHOWN_LABELS
    assert [each.issue for each in pairs] == ["leakage", "duplicate", "near duplicate"]

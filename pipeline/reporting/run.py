"""`Run`: the files of a finished run as Python values."""

import html
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.names import as_path
from pipeline.reporting import summary
from pipeline.runs.files import explain_unreadable, read_json
from pipeline.runs.folder import PREDICTIONS, RESULTS, TRAINER_STATE, RunFolder, require_finished

if TYPE_CHECKING:
    import pandas as pd

_AGAIN = "repeat the `train` command of the run, which writes it again"


class Run:
    """A finished run: its folder, metrics, predictions and log history.

    Each file is read at the first access. In a terminal a run shows its accuracies; in a notebook it shows a table.

    Example:
        >>> run = Run("outputs/flowers102-seed42")
        >>> run.metrics["test_accuracy"]
        >>> run.predictions.query("split == 'test' and not correct")

    Attributes:
        folder: The run folder.
    """

    folder: Path

    def __init__(self, folder: str | Path) -> None:
        """Open a run folder.

        Args:
            folder: Folder that `train` wrote.

        Raises:
            PipelineError: If the folder does not contain a finished run.
        """
        self.folder = as_path(folder)
        require_finished(self.folder)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The metrics of `all_results.json`: `train_*`, `eval_*` (validation) and `test_*`, accuracies as fractions."""
        with explain_unreadable(self.folder / RESULTS, remedy=_AGAIN):
            return read_json(self.folder / RESULTS)

    @cached_property
    def predictions(self) -> "pd.DataFrame":
        """The predictions of `predictions.parquet`, one row for each evaluated image.

        Columns: `split`, `id` (path relative to the dataset, or row number), `label` and `prediction` (class names),
        `probability` (of the predicted class) and `correct`; `ood_score` (out-of-distribution score) if the model
        stores one.
        """
        import numpy as np
        import pandas as pd
        from scipy.special import softmax

        from pipeline.evaluation.predictions import read_predictions

        with explain_unreadable(self.folder / PREDICTIONS, remedy=_AGAIN):
            splits, class_names = read_predictions(self.folder / PREDICTIONS)
        names = np.asarray(class_names, dtype=object)
        frames = []
        for split in splits:
            predicted = split.logits.argmax(axis=1)
            columns = {
                "split": split.split,
                "id": split.ids,
                "label": names[split.labels],
                "prediction": names[predicted],
                "probability": softmax(split.logits.astype(np.float64), axis=1).max(axis=1),
                "correct": predicted == split.labels,
            }
            if split.ood_scores is not None:
                columns["ood_score"] = split.ood_scores
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    @cached_property
    def history(self) -> "pd.DataFrame":
        """The log history of `trainer_state.json`, one row for each log entry. It is empty for `--strategy head`."""
        import pandas as pd

        path = self.folder / TRAINER_STATE
        with explain_unreadable(path, remedy=_AGAIN):
            return pd.DataFrame(read_json(path)["log_history"] if path.exists() else [])

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The resolved settings of `recipe.yaml`, by flag name. Settings without a value are not included."""
        return RunFolder(self.folder).arguments

    def __repr__(self) -> str:
        return f"{summary.table(self.metrics)}\n{self.folder} is finished"

    def _repr_html_(self) -> str:
        """Return a table for notebooks: splits, accuracies with 95% intervals and numbers of images."""
        rows = list(summary.summarize(self.metrics))
        labels = [label for label in summary.ACCURACIES.values() if any(label in row.accuracies for row in rows)]
        header = ["split", *labels, "images"]
        cells = [[row.split, *(row.accuracies.get(label, "") for label in labels), str(row.images)] for row in rows]
        head, body = _html_row(header, "th"), "".join(_html_row(row, "td") for row in cells)
        # No colors: the table inherits those of the notebook's light or dark theme.
        style = "text-align: left; color: inherit; padding: 0.3em 0.8em"
        caption = f'<caption style="{style}">{html.escape(self.folder.name)}: accuracy with 95% interval</caption>'
        return f"<table>{caption}<thead>{head}</thead><tbody>{body}</tbody></table>"


def _html_row(cells: list[str], tag: str) -> str:
    """Return a table row. The first column (names) is left-aligned, the other columns (numbers) are right-aligned."""
    styled = [
        f'<{tag} style="text-align: {"right" if column else "left"}; padding: 0.3em 0.8em">{html.escape(cell)}</{tag}>'
        for column, cell in enumerate(cells)
    ]
    return f"<tr>{''.join(styled)}</tr>"

"""`--hub_strategy checkpoint`: pushes checkpoints in the background."""

import contextlib
import functools
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline import distributed, hub
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.errors import PipelineError
from pipeline.hub.checkpoints import Files

logger = logging.getLogger(__name__)


class PushCheckpoints(TrainerCallback):
    """Pushes the newest and the best checkpoint after every save, one push at a time.

    A checkpoint that is saved while a push is running waits, and is replaced by a newer one. A push that fails is a
    warning, and the next one contains everything. At the end of training, the last push is waited for.
    """

    def __init__(self, folder: Path, push: Callable[[Files], None]) -> None:
        """Start without a checkpoint.

        Args:
            folder: The run folder.
            push: Pushes opened files, see `hub.open_checkpoints`.
        """
        self.folder, self.push = folder, push
        self._lock = threading.Lock()
        self._waiting: tuple[int, Files] | None = None
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, args: FineTuningArguments, folder: Path) -> "PushCheckpoints | None":
        """Return what pushes the checkpoints of a training to its repository, or None if they are not wanted."""
        if not args.push_to_hub or args.hub_strategy != "checkpoint":
            return None
        push = functools.partial(
            hub.push_checkpoints,
            repo_id=str(args.hub_model_id),
            private=args.hub_private_repo,
            revision=args.hub_revision or "main",
        )
        return cls(folder, push)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Open the files of the checkpoints, because they can be removed before they are pushed."""
        del args, control, kwargs
        if not distributed.is_main_process():
            return
        step = state.global_step
        try:
            files = hub.open_checkpoints(self.folder, {step, state.best_global_step or step})
        except (PipelineError, OSError) as error:
            logger.warning("checkpoint-%d is not pushed: %s", step, error)
            return
        with self._lock:
            if self._waiting is not None:
                _close(self._waiting[1])
            self._waiting = step, files
            if self._thread is None:
                self._thread = threading.Thread(target=self._push_waiting, daemon=True)
                self._thread.start()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Wait for the last push."""
        del args, state, control, kwargs
        if (thread := self._thread) is not None:
            thread.join()

    def _push_waiting(self) -> None:
        while True:
            with self._lock:
                waiting, self._waiting = self._waiting, None
                if waiting is None:
                    self._thread = None
                    return
            step, files = waiting
            try:
                self.push(files)
                logger.info("pushed checkpoint-%d", step)
            except Exception as error:  # noqa: BLE001 (whatever the client raises, training continues)
                logger.warning("checkpoint-%d was not pushed, and training continues: %s", step, error)
            finally:
                _close(files)


def _close(files: Files) -> None:
    for file in files.values():
        with contextlib.suppress(AttributeError):  # contents have nothing to close
            file.close()  # type: ignore[union-attr]

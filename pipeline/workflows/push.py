"""`push`: a finished run -> a Hub repository with its published files and a model card that names it."""

from pathlib import Path

from pipeline import config, distributed, hub
from pipeline.arguments.verbs import PushArguments
from pipeline.config import CommandLine
from pipeline.reporting import card
from pipeline.runs.folder import require_intact
from pipeline.runs.lock import lock

ARGUMENTS = (PushArguments,)


def push(model: str | Path, hub_model_id: str, *, private: bool = False, revision: str = "main") -> str:
    """Upload a finished run, and return the address of its repository.

    Args:
        model: Run folder.
        hub_model_id: Hub repository OWNER/NAME; created if it does not exist.
        private: Whether a new repository is private.
        revision: Branch to push to.

    Raises:
        PipelineError: If the run is not finished, a file of it is damaged, another command is writing into its folder,
            there is no valid token, or the Hub cannot be reached.
    """
    folder = Path(model)
    require_intact(folder)
    hub.check_may_push(hub_model_id)  # before the card names a repository that the run may never reach
    with lock(folder):
        card.write(folder, repo_id=hub_model_id)
        return hub.push_run(folder, hub_model_id, private=private, revision=revision)


def run(line: CommandLine) -> str:
    """Run the verb, and return where the run was pushed to."""
    (args,) = config.parse(line, ARGUMENTS)
    if not distributed.is_main_process():
        return ""
    address = push(args.model, args.hub_model_id, private=args.hub_private_repo, revision=args.hub_revision)
    return f"pushed to {address}"

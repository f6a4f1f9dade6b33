"""`push`: a finished run -> a Hub repository with its listed files and a model card that names it."""

from pathlib import Path

from pipeline import config, distributed, hub
from pipeline.arguments.verbs import PushArguments
from pipeline.config import CommandLine
from pipeline.errors import refuse
from pipeline.reporting import card
from pipeline.runs.folder import require_finished

ARGUMENTS = (PushArguments,)


def run(line: CommandLine) -> str:
    """Upload a finished run.

    Returns:
        Where it is.

    Raises:
        PipelineError: If the run is not finished, there is no valid token, or the Hub cannot be reached.
    """
    (args,) = config.parse(line, ARGUMENTS)
    given = {"which run? --model RUN": args.model, "where to? --hub_model_id OWNER/NAME": args.hub_model_id}
    refuse(question for question, answer in given.items() if answer is None)
    folder = Path(args.model)
    require_finished(folder)
    if not distributed.is_main_process():
        return ""
    hub.check_may_push(args.hub_model_id)  # before the card names a repository that it may not reach
    card.write(folder, repo_id=args.hub_model_id)
    address = hub.push_run(folder, args.hub_model_id, private=args.hub_private_repo, revision=args.hub_revision)
    return f"pushed to {address}"

"""`push`: a finished run -> a Hub repository with its published files and a model card that names it; a Space."""

from collections.abc import Mapping
from pathlib import Path

from pipeline import config, distributed, hub
from pipeline.arguments.verbs import PushArguments
from pipeline.config import CommandLine
from pipeline.reporting import card
from pipeline.runs.folder import CARD, require_intact
from pipeline.runs.lock import lock
from pipeline.runs.publish import published_contents

ARGUMENTS = (PushArguments,)


def push(
    model: str | Path,
    hub_model_id: str,
    *,
    private: bool = False,
    revision: str = "main",
    create_pr: bool = False,
    space: bool = False,
    dry_run: bool = False,
) -> str:
    """Upload a finished run, and return the address of its repository or pull request, or of its Space.

    Args:
        model: Run folder.
        hub_model_id: Hub repository OWNER/NAME; created if it does not exist.
        private: Whether a new repository is private.
        revision: Branch to push to; created if it does not exist.
        create_pr: Whether to open a pull request in an existing repository.
        space: Whether to push a Space of the same name too, which runs the exported model of the run.
        dry_run: Whether to return the files and their sizes as text and upload nothing. It needs no network.

    Raises:
        PipelineError: If the run is not finished, or not exported (with `space`), a file of it is damaged, another
            command is writing into its folder, no token is valid, the Hub cannot be reached, or a file in the
            repository differs from that of the run after the push.
    """
    folder = Path(model)
    require_intact(folder)
    page = _space_contents(folder, hub_model_id) if space else {}
    if dry_run:
        return _list_files(folder, hub_model_id, page)
    # Before the card names a repository that the run may never reach.
    hub.check_may_push(hub_model_id, create_pr=create_pr)
    with lock(folder):
        card.write(folder, repo_id=hub_model_id)
        pushed = hub.push_run(folder, hub_model_id, private=private, revision=revision, create_pr=create_pr)
        hub.check_pushed(folder, pushed)
    if not space:
        return pushed.url
    return hub.push_space(page, pushed.repo_id, program="app.py", mark="page.json", private=private)


def run(line: CommandLine) -> str:
    """Run the verb, and return where the run was pushed to."""
    (args,) = config.parse(line, ARGUMENTS)
    if not distributed.is_main_process():
        return ""
    answer = push(
        args.model,
        args.hub_model_id,
        private=args.hub_private_repo,
        revision=args.hub_revision,
        create_pr=args.create_pr,
        space=args.space,
        dry_run=args.dry_run,
    )
    return answer if args.dry_run else f"pushed to {answer}"


def _space_contents(folder: Path, repo_id: str) -> dict[str, Path | bytes]:
    from pipeline.deployment.space import space_contents  # it needs Gradio

    return space_contents(folder, repo_id)


def _list_files(folder: Path, repo_id: str, page: Mapping[str, Path | bytes]) -> str:
    """Return the files that a push would upload, with their sizes in bytes."""
    model = published_contents(folder) | {CARD: card.render(folder, repo_id=repo_id).encode()}
    lines = []
    for contents, place in ((model, repo_id), (page, f"the Space {repo_id}")):
        sizes = {n: each.stat().st_size if isinstance(each, Path) else len(each) for n, each in contents.items()}
        if sizes:
            lines.append(f"would push {len(sizes)} files ({sum(sizes.values()):,} bytes) to {place}:")
        lines += [f"  {size:>13,}  {name}" for name, size in sizes.items()]
    return "\n".join(lines)

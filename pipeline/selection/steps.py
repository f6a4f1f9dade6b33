"""The list of selection steps: which of them the settings ask for, in their order."""

from pipeline.arguments.settings import Settings
from pipeline.selection import fixres, frozen, refit_head
from pipeline.selection.improve import Propose


def selection_steps(settings: Settings) -> list[tuple[str, Propose]]:
    """Return the steps that the settings ask for. A new step is one function and one line here."""
    # A probe counts each image equally, so it would undo a balancing of the classes.
    is_balanced = settings.objective.balanced_sampling or settings.objective.class_weights != "none"
    may_be_frozen = settings.selection.auto and not settings.model.from_scratch and not is_balanced
    steps: list[tuple[bool, str, Propose]] = [
        # With --strategy head the head already is a linear probe on the same features.
        (settings.selection.refit_head and settings.strategy.strategy != "head", "--refit_head", refit_head.propose),
        # After --refit_head, because it compares the head that was refitted with one for the higher resolution.
        (settings.selection.fixres, "--fixres", fixres.propose),
        (may_be_frozen, "--auto", frozen.propose),
    ]
    return [(name, propose) for wanted, name, propose in steps if wanted]

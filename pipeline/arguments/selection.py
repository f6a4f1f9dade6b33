"""Flags of choices that are measured on validation. Torch-free."""

from dataclasses import dataclass

from pipeline.arguments.flags import LOOP, flag


@dataclass
class SelectionArguments:
    """What is chosen before training, and what is kept after it if validation improves."""

    auto: bool = flag(
        False,
        "Choose strategy, learning rate, epochs, batch size, augmentation, resolution and precision from the images, "
        "the model and the machine, and log the reasons. Any flag overrides its choice.",
        recipe="never",
        needs_all_images=(True,),
    )
    fixres: bool = flag(
        False,
        "After training, also score validation at 8/7 of the resolution, and save the model at the resolution with the "
        "higher accuracy (FixRes).",
        strategies=LOOP,
    )
    refit_head: bool = flag(
        False,
        "After training, refit the head by logistic regression on the trained features, calibrate it on validation, "
        "and keep it only if validation accuracy improves.",
        needs_all_images=(True,),
        strategies=LOOP,
    )

"""Values that are not finite: they stop the training before they reach the weights."""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline import distributed


class Diverged(distributed.DistributedError):
    """The error of a training whose values are not finite. All ranks raise it.

    Attributes:
        reason: What is not finite, when, and the learning rate then.
        remedy: What to change in a new training.
        step: When it was noticed. None: before a checkpoint.
    """

    def __init__(self, name: str, value: float, *, step: int | None, rate: float, peak_rate: float) -> None:
        """Describe the value.

        Args:
            name: The value.
            value: NaN or infinity.
            step: When it was noticed. None: before a checkpoint.
            rate: The learning rate then.
            peak_rate: The value of `--learning_rate`.
        """
        when = "before a checkpoint was saved" if step is None else f"at step {step}"
        self.step = step
        self.reason = (
            f"{name} is {value} {when} (training diverged at learning rate {rate:.3g}; the checkpoints before are kept)"
        )
        self.remedy = (
            f"lower --learning_rate (now {peak_rate:g}), raise --warmup_steps or use --precision fp32, and choose "
            "another --output_dir"
        )
        super().__init__(f"{self.reason}: {self.remedy}; or repeat the command with --on_nan rewind")


class Guard:
    """Looks at the gradient norm of every step, which is the same on all ranks, before the weights are changed.

    On an accelerator, reading it would make every step wait for the device. There, the first bad step is noted on the
    device, and from this step on the optimizer skips its updates, as it does for fp16. `require_finite` reads the note
    where the Trainer waits anyway: when it logs, and before it saves. Only fused optimizers can skip on the device;
    with others, every step waits.
    """

    def __init__(self, *, peak_rate: float) -> None:
        """Start without a bad step.

        Args:
            peak_rate: The value of `--learning_rate`.
        """
        self.peak_rate = peak_rate
        self._first_bad_step: Tensor | None = None

    def look(self, norm: Tensor | float, *, step: int, rate: float, optimizer: Any) -> None:
        """Stop the training if the gradients of a step are not finite, or hold the weights until it is noticed.

        Args:
            norm: The gradient norm.
            step: The step.
            rate: The learning rate.
            optimizer: The optimizer of torch that changes the weights next.

        Raises:
            Diverged: If they are not finite, unless the optimizer skips its updates on the device.
        """
        norm = torch.as_tensor(norm)
        self.note(norm, step=step)
        if norm.device.type == "cpu":
            if not norm.isfinite():
                raise Diverged("the gradient norm", float(norm), step=step, rate=rate, peak_rate=self.peak_rate)
        elif norm.device.type != "mps" and getattr(optimizer, "_step_supports_amp_scaling", False):
            self.hold(optimizer)
        else:
            self.require_finite(rate=rate)

    def note(self, norm: Tensor, *, step: int) -> None:
        """Note on the device whether the norm of a step is finite."""
        bad = torch.where(norm.isfinite(), torch.inf, float(step))
        self._first_bad_step = bad if self._first_bad_step is None else torch.minimum(self._first_bad_step, bad)

    def hold(self, optimizer: Any) -> None:
        """Make a fused optimizer skip its updates if a bad step was noted."""
        if self._first_bad_step is not None:
            optimizer.found_inf = self._first_bad_step.isfinite().float()

    def require_finite(self, model: nn.Module | None = None, *, rate: float) -> None:
        """Raise the error for the first bad step, if there was one, or if a weight of the model is not finite.

        Raises:
            Diverged: On all ranks.
        """
        step = float("inf") if self._first_bad_step is None else self._first_bad_step.item()
        if step != float("inf"):
            raise Diverged("the gradient norm", float("nan"), step=int(step), rate=rate, peak_rate=self.peak_rate)
        tensors = [] if model is None else [each for each in model.parameters() if each.is_floating_point()]
        if tensors and not torch.stack([each.detach().isfinite().all() for each in tensors]).all():
            raise Diverged("a weight", float("nan"), step=None, rate=rate, peak_rate=self.peak_rate)

"""Throughput of training: images per second, data wait, and the share of the measured matmul rate (MFU)."""

import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Speed:
    """Images a second of training, and what they make of the processors.

    Attributes:
        images_per_second: Over all processes.
        flops_per_second: Of the matrix products of their forward and backward pass (`models.flops.training_flops`).
        matmul_rate: Operations a second that large matrix products reach, over all processes.
    """

    images_per_second: float
    flops_per_second: float
    matmul_rate: float

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation: the rate as a share of what large matrix products reach on this machine."""
        return self.flops_per_second / self.matmul_rate

    def __str__(self) -> str:
        """A phrase for a line of the log."""
        return (
            f"{self.images_per_second:.4g} images/s, {self.flops_per_second / 1e12:.3g} TFLOP/s, {self.mfu:.0%} of the "
            f"{self.matmul_rate / 1e12:.3g} that matrix products reach here"
        )

    def figures(self) -> dict[str, float]:
        """What goes into `run.json`."""
        return {
            "images_per_second": round(self.images_per_second, 2),
            "gflops_per_image": round(self.flops_per_second / self.images_per_second / 1e9, 3),
            "tflops_per_second": round(self.flops_per_second / 1e12, 4),
            "matmul_tflops_per_second": round(self.matmul_rate / 1e12, 4),
            "mfu": round(self.mfu, 4),
        }


@dataclass
class Span:
    """A stretch of training without its evaluations: images, their cost, seconds in all and of them waiting."""

    images: int = 0
    flops: float = 0.0  # of their matrix products
    seconds: float = 0.0
    waited: float = 0.0

    @property
    def wait(self) -> float:
        """Share of the time spent waiting for data."""
        return self.waited / self.seconds if self.seconds else 0.0

    @property
    def rate(self) -> float:
        """Images a second, over all processes."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def flops_rate(self) -> float:
        """Operations a second, over all processes."""
        return self.flops / self.seconds if self.seconds else 0.0


@dataclass
class Clock:
    """Measures each step from asking for its images to its end; the first step, which warms up, is left out.

    On a GPU the wait is the host's: while it waits, work that was queued before may still run.
    """

    whole: Span = field(default_factory=Span)
    lately: Span = field(default_factory=Span)
    started: float = field(default_factory=time.perf_counter)
    before: float = 0.0
    _asked: float = 0.0
    _got: float = 0.0
    _images: int = 0
    _flops: float = 0.0
    _warm: bool = False

    def ask(self) -> None:
        """Note that a step asks for its images."""
        self._asked = time.perf_counter()

    def get(self, images: int, flops: float) -> None:
        """Note that it has them: how many over all processes, and what they cost."""
        self._got, self._images, self._flops = time.perf_counter(), images, flops

    def end_step(self) -> None:
        """Note that the step is done."""
        now = time.perf_counter()
        for span in (self.whole, self.lately) if self._warm else ():
            span.images += self._images
            span.flops += self._flops
            span.seconds += now - self._asked
            span.waited += self._got - self._asked
        self._warm = True

    def take_latest(self) -> Span:
        """Return what was measured since the last call."""
        span, self.lately = self.lately, Span()
        return span

    def elapsed(self) -> float:
        """Seconds since training began, evaluations and the calls before a resume (`before`) included."""
        return self.before + time.perf_counter() - self.started

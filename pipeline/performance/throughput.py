"""Throughput of training: images per second, data wait, and model FLOPs utilization (MFU).

- Data wait: fraction of the time that a step waits for its images.
- MFU: FLOPs per second of the model's matrix products, as a fraction of the matmul rate measured on the same machine.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Speed:
    """Throughput of training, compared with the matmul rate of the machine.

    Attributes:
        images_per_second: Images per second of all processes.
        flops_per_second: FLOPs per second of all processes, counted by `performance.flops.training_flops`.
        matmul_rate: FLOPs per second that large matrix products reach in all processes.
    """

    images_per_second: float
    flops_per_second: float
    matmul_rate: float

    @property
    def mfu(self) -> float:
        """Model FLOPs utilization: FLOPs per second as a fraction of the matmul rate."""
        return self.flops_per_second / self.matmul_rate

    def __str__(self) -> str:
        """Return a phrase for a log line."""
        return (
            f"{self.images_per_second:.4g} images/s, {self.flops_per_second / 1e12:.3g} TFLOP/s "
            f"(MFU {self.mfu:.0%}: large matrix products reach {self.matmul_rate / 1e12:.3g} TFLOP/s)"
        )

    def metrics(self) -> dict[str, float]:
        """Return the rounded values for `run.json`."""
        return {
            "images_per_second": round(self.images_per_second, 2),
            "gflops_per_image": round(self.flops_per_second / self.images_per_second / 1e9, 3),
            "tflops_per_second": round(self.flops_per_second / 1e12, 4),
            "matmul_tflops_per_second": round(self.matmul_rate / 1e12, 4),
            "mfu": round(self.mfu, 4),
        }


@dataclass
class Interval:
    """Training steps of a period of time, without evaluations and checkpoints.

    Attributes:
        images: Images of all processes.
        flops: FLOPs of the matrix products for these images.
        seconds: Duration of the steps.
        wait_seconds: Part of the duration in which the steps waited for data.
    """

    images: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    wait_seconds: float = 0.0

    @property
    def images_per_second(self) -> float:
        """Images per second of all processes, or 0 before the first measured step."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def data_wait(self) -> float:
        """Fraction of the time in which the steps waited for data."""
        return self.wait_seconds / self.seconds if self.seconds else 0.0

    def speed(self, matmul_rate: float) -> Speed:
        """Return the throughput, compared with a matmul rate in FLOPs per second of all processes."""
        flops_per_second = self.flops / self.seconds if self.seconds else 0.0
        return Speed(self.images_per_second, flops_per_second, matmul_rate)


@dataclass
class Clock:
    """Measures each training step from the request for its data to its end. The first step is warmup and is ignored.

    On a GPU, the data wait is the wait of the host: the GPU may still compute queued work during it.

    Attributes:
        total: All measured steps.
        recent: The measured steps since the last call of `take_recent`.
        started: Value of `time.perf_counter` at the start of training.
        seconds_before_resume: Elapsed seconds of the calls before a resume.
        phases: Seconds of what happens between the steps, by name.
    """

    total: Interval = field(default_factory=Interval)
    recent: Interval = field(default_factory=Interval)
    started: float = field(default_factory=time.perf_counter)
    seconds_before_resume: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    _requested_at: float = 0.0
    _received_at: float = 0.0
    _images: int = 0
    _flops: float = 0.0
    _warm: bool = False

    def data_requested(self) -> None:
        """Record that a step requests its data."""
        self._requested_at = time.perf_counter()

    def data_received(self, images: int, flops: float) -> None:
        """Record that a step has its data.

        Args:
            images: Number of images of all processes.
            flops: FLOPs of the forward and backward pass for these images.
        """
        self._received_at, self._images, self._flops = time.perf_counter(), images, flops

    def step_ended(self) -> None:
        """Record the end of a step."""
        now = time.perf_counter()
        self.phases["steps"] = self.phases.get("steps", 0.0) + now - self._requested_at
        for interval in (self.total, self.recent) if self._warm else ():
            interval.images += self._images
            interval.flops += self._flops
            interval.seconds += now - self._requested_at
            interval.wait_seconds += self._received_at - self._requested_at
        self._warm = True

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the duration of the block to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.phases[phase] = self.phases.get(phase, 0.0) + time.perf_counter() - start

    def take_recent(self) -> Interval:
        """Return the measured steps since the last call."""
        interval, self.recent = self.recent, Interval()
        return interval

    def elapsed(self) -> float:
        """Return the seconds since training began, including evaluations and the time before a resume."""
        return self.seconds_before_resume + time.perf_counter() - self.started

"""Interrupt and damage trainings in every way, and compare their results with those of undisturbed ones.

    python -m tests.benchmarks.faults [--short] [--kills 200] [--only kills damage signals disks]
        [--configurations plain ...]

- kills: `kill -9` at random moments of many trainings, until each of them ends by itself.
- damage: each file of the newest and of the best checkpoint absent, truncated, zeroed, or with one flipped bit.
- signals: SIGTERM, SIGINT, SIGHUP and SIGUSR1 to the process group, in every phase.
- disks: a disk on which ten amounts of space are left in the middle of a training. They need the right to mount one.

The weights, the predictions, the findings about labels and the logged losses of every repeated command must have the
bytes of an undisturbed run. The exit code is 1 if one of them has not. `--short` takes less than three minutes, and is
a test. The rows of a complete run are those of its parts (`--only`, `--configurations`), whichever way it is divided.
"""

import argparse
import contextlib
import functools
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from pipeline import signals
from pipeline.runs.checkpoints import newest_complete_checkpoint, saved_steps
from pipeline.runs.files import read_json
from tests.benchmarks import fork_server as server
from tests.runs.damage import DAMAGE

INTERVAL = 3  # steps between two saves
TOGETHER = {
    "strategy": "lora",
    "ema_decay": 0.9,
    "mixup": 0.8,
    "gradient_accumulation_steps": 2,
    "per_device_train_batch_size": 4,
    "dataloader_num_workers": 2,
}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two workers": {"dataloader_num_workers": 2},
    "early stopping": {"early_stopping_patience": 3, "num_train_epochs": 12},
    "together": TOGETHER,
    "bf16, balanced": {"precision": "bf16", "balanced_sampling": True, "patch_drop_rate": 0.5},
    "refit head, FixRes": {"refit_head": True, "fixres": True},
    "probe, by epoch": {"head_init": "probe", "eval_strategy": "epoch", "save_strategy": "epoch"},
    "device cache": {"image_cache": "device"},
    "rewound": {"on_nan": "rewind"},
}
Moment = Callable[[], bool]


@dataclass
class Table:
    """The rows of the table, and what went wrong."""

    rows: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, name: str, counts: Counter[str]) -> None:
        self.rows.append(f"| {name} | {', '.join(f'{count} {what}' for what, count in sorted(counts.items()))} |")
        print(self.rows[-1], flush=True)


@dataclass(eq=False)
class Lab:
    """A folder with data, a model and the results of undisturbed runs."""

    root: Path
    epochs: int
    table: Table = field(default_factory=Table)

    def words(self, folder: Path, changes: dict[str, Any]) -> list[str]:
        """Return the command line of a training."""
        flags = {
            "model_name_or_path": self.root / "vit",
            "dataset_name": self.root / "photos",
            "output_dir": folder,
            "num_train_epochs": self.epochs,
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 8,
            "precision": "fp32",
            "dataloader_num_workers": 0,
            "eval_strategy": "steps",
            "save_strategy": "steps",
            "eval_steps": INTERVAL,
            "save_steps": INTERVAL,
            "logging_steps": 1,
            "report": "no",
            "uncertainty": "no",
        } | changes
        by_epoch = flags["eval_strategy"] == "epoch"
        dropped = ("eval_steps", "save_steps") if by_epoch else ()
        return ["train", *(f"--{name}={value}" for name, value in flags.items() if name not in dropped)]

    @functools.cache  # noqa: B019 (there is one lab)
    def undisturbed(self, name: str) -> dict[str, Any]:
        """Return what an undisturbed run of a configuration leaves."""
        folder = self.root / f"undisturbed {name}"
        code, text = self.finish(folder, CONFIGURATIONS[name])
        assert code == 0, text
        return results(folder)

    def finish(self, folder: Path, changes: dict[str, Any]) -> tuple[int | None, str]:
        """Run a command to its end; return its exit code and what it printed."""
        output = folder.with_name(f"{folder.name}.txt")
        output.unlink(missing_ok=True)
        code = server.wait(server.spawn(self.words(folder, changes), output))
        return code, output.read_text(errors="replace")

    def check(self, folder: Path, name: str, what: str) -> str:
        """Repeat a command, compare its results, and return one word about them."""
        code, text = self.finish(folder, CONFIGURATIONS[name])
        if code != 0:
            self.table.problems.append(f"{what}: exit code {code}: {text[-800:]}")
            return "failed"
        if differing := [key for key, value in results(folder).items() if self.undisturbed(name)[key] != value]:
            self.table.problems.append(f"{what}: {', '.join(differing)} differ")
            return "different"
        if left := [path.name for path in folder.iterdir() if path.name[0] == "." or "unusable" in path.name]:
            self.table.problems.append(f"{what}: left behind {left}")
        shutil.rmtree(folder)
        return "exact"


def results(folder: Path) -> dict[str, Any]:
    """Return the hashes of weights and predictions, and everything that was logged except times."""
    names = ("model.safetensors", "config.json", "predictions.parquet", "issues.csv")
    logged = ("loss", "grad_norm", "learning_rate", "eval_loss", "eval_accuracy")
    state = read_json(folder / "trainer_state.json")
    rows = {(row["step"], key): row[key] for row in state["log_history"] for key in logged if key in row}
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    rewinds = read_json(folder / "run.json").get("rewinds")
    kept = {"best": state["best_global_step"], "checkpoints": saved_steps(folder), "rewinds": rewinds}
    return {**hashes, "log": rows, **kept}


def measure_kills(lab: Lab, kills: int, names: list[str]) -> None:
    """Kill trainings of each configuration at random moments, `kills` times."""
    for name in names:
        rng, counts, ends, lost, number = random.Random(name), Counter[str](), Counter[str](), [0], 0
        lab.undisturbed(name)
        while counts.total() < kills:
            number += 1
            folder = lab.root / f"killed {name} {number}"
            for attempt in range(8):
                at = _kill_once(lab, folder, name, rng)
                if at is None:
                    break
                where, steps = at
                counts[where] += 1
                newest = newest_complete_checkpoint(folder)
                if where in ("train", "eval", "save", "rotate") and "eval_strategy" not in CONFIGURATIONS[name]:
                    lost.append(steps + 1 - (int(newest.name[11:]) if newest else 0))
                if attempt == 7 or counts.total() >= kills:
                    break
            ends[f"runs {lab.check(folder, name, f'killed {name}, run {number}')}"] += 1
        if max(lost) > INTERVAL + 1:
            lab.table.problems.append(f"killed {name}: {max(lost)} steps lost")
        lab.table.add(f"kill -9, {name} (at most {max(lost)} steps lost)", ends + counts)


def _kill_once(lab: Lab, folder: Path, name: str, rng: random.Random) -> tuple[str, int] | None:
    """Kill a training at a random moment; return where it was and its step, or None if it ended before."""
    pid = server.spawn(lab.words(folder, CONFIGURATIONS[name]), folder.with_name(f"{folder.name}.txt"))
    (where,) = rng.choices(
        ["train", "save", "rotate", "eval", "best", "artefact", "score", "results"], [4, 5, 2, 2, 1, 1, 1, 1]
    )
    count = rng.randint(1, 6) if where in ("train", "save", "rotate", "eval") else 1
    if not _reach(pid, lambda: server.times_entered(where) >= count):
        return None
    time.sleep(rng.uniform(0, 0.03))
    os.kill(pid, signal.SIGSTOP)  # to look while it stands still
    at = server.phase(), server.step()
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return at


def _reach(pid: int, moment: Moment, timeout: float = 120) -> bool:
    """Wait for a moment. Return whether the process was still running then."""
    end = time.monotonic() + timeout
    while not moment():
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        assert time.monotonic() < end, "the training hangs"
        time.sleep(0.0005)
    return True


def measure_damage(lab: Lab, kinds: list[str], names: list[str], files: str) -> None:
    """Damage the newest and the best checkpoint of killed trainings."""
    saves = max(5, 3 * lab.epochs - 4)  # late, so that the repeated commands are short
    for name in names:
        template = lab.root / f"template {name}"
        pid = server.spawn(lab.words(template, CONFIGURATIONS[name]), lab.root / "template.txt")
        _reach(pid, lambda: server.times_entered("save") >= saves and server.phase() == "train")
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        newest = saved_steps(template)[0]
        best = read_json(template / f"checkpoint-{newest}" / "trainer_state.json")["best_global_step"]
        for title, step in {"newest": newest, "best": best}.items():
            counts = Counter[str]()
            for file in sorted(path.name for path in (template / f"checkpoint-{step}").glob(files)):
                for kind in kinds:
                    counts[_damage_once(lab, template, name, (step, file, kind))] += 1
            lab.table.add(f"damage of the {title} checkpoint, {name}", counts)


def _damage_once(lab: Lab, template: Path, name: str, target: tuple[int, str, str]) -> str:
    step, file, kind = target
    folder = lab.root / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    damaged, whole = (each / f"checkpoint-{step}" / file for each in (folder, template))
    DAMAGE[kind](damaged)
    is_damaged = not damaged.exists() or damaged.read_bytes() != whole.read_bytes()  # zeros can replace zeros
    word = lab.check(folder, name, f"{file} of checkpoint-{step} {kind}")
    text = (lab.root / "damaged.txt").read_text(errors="replace")
    is_harmless = (file, kind) == ("manifest.json", "last byte gone") or not is_damaged  # the end of the line
    if f"checkpoint-{step} is not used and is set aside: {file} is" not in text and not is_harmless:
        lab.table.problems.append(f"{file} of checkpoint-{step} {kind}: not named: {text[-500:]}")
    return word


MOMENTS: dict[str, Moment] = {
    "start": lambda: server.times_entered("start") >= 1,
    "first step": lambda: server.times_entered("train") >= 1,
    "middle": lambda: server.step() >= 14,
    "evaluation": lambda: server.times_entered("eval") >= 2,
    "save": lambda: server.times_entered("save") >= 2,
    "last step": lambda: server.step() >= 53,
    "best": lambda: server.times_entered("best") >= 1,
    "model file": lambda: server.times_entered("artefact") >= 1,
    "scoring": lambda: server.times_entered("score") >= 1,
    "results": lambda: server.times_entered("results") >= 1,
}


def measure_signals(lab: Lab, moments: list[str], names: list[str]) -> None:
    """Send every signal to the process group of trainings in every phase."""
    for name in names:
        lab.undisturbed(name)
        for number in signals.STOPPING:
            counts = Counter(_signal_once(lab, name, moment, number) for moment in moments)
            lab.table.add(f"{number.name} to the group, {name}", counts)


def _signal_once(lab: Lab, name: str, moment: str, number: signal.Signals) -> str:
    what = f"{number.name} at {moment}, {name}"
    folder = lab.root / what
    output = lab.root / f"{what}.txt"
    pid = server.spawn(lab.words(folder, CONFIGURATIONS[name]), output)
    if not _reach(pid, MOMENTS[moment]):
        return "ended before"
    os.killpg(pid, number)
    code, text = server.wait(pid), output.read_text(errors="replace")
    complaints = {
        f"exit code {code}": code not in (128 + number, 0),
        "traceback": "Traceback" in text,
        "no line": code != 0 and f"by {number.name}: " not in text.splitlines()[-1],
        "orphans": any(os.getsid(process.pid) == pid for process in _processes()),
    }
    if found := [complaint for complaint, is_true in complaints.items() if is_true]:
        lab.table.problems.append(f"{what}: {', '.join(found)}: {text[-800:]}")
    return f"exit {code}, {lab.check(folder, name, what)}"


def measure_full_disks(lab: Lab, sizes: int, names: list[str]) -> None:
    """Fill the disk in the middle of trainings, up to a number of sizes that are less than two checkpoints."""
    for name in names:
        best = lab.undisturbed(name)["checkpoints"][0]
        checkpoint = lab.root / f"undisturbed {name}" / f"checkpoint-{best}"
        size = sum(file.stat().st_size for file in checkpoint.iterdir())
        with _disk(lab.root / "disk") as disk:
            counts = Counter(_fill_once(lab, disk, name, 2 * size * i // sizes) for i in range(sizes))
        lab.table.add(f"full disk, {name}", counts)


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def _fill_once(lab: Lab, disk: Path, name: str, left: int) -> str:
    what = f"{left} bytes left, {name}"
    folder, output, ballast = disk / "run", lab.root / f"{what}.txt", disk / "ballast"
    pid = server.spawn(lab.words(folder, CONFIGURATIONS[name]), output)
    assert _reach(pid, lambda: server.times_entered("save") >= 2 and server.phase() == "train")
    os.kill(pid, signal.SIGSTOP)
    ballast.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - left)))
    os.kill(pid, signal.SIGCONT)
    code, text = server.wait(pid), output.read_text(errors="replace")
    ballast.unlink()
    if code not in (0, 2) or "Traceback" in text or (code == 2 and text.count("error: ") != 1):
        lab.table.problems.append(f"{what}: exit code {code}: {text[-800:]}")
    return f"exit {code}, {lab.check(folder, name, what)}"


def _processes() -> Iterator[psutil.Process]:
    return (each for each in psutil.process_iter() if each.is_running() and each.status() != psutil.STATUS_ZOMBIE)


def _in(chosen: list[str], *names: str) -> list[str]:
    return [name for name in names if name in chosen]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--kills", type=int, default=200, help="over all configurations, whichever are chosen")
    parser.add_argument("--only", nargs="+", choices=["kills", "damage", "signals", "disks"])
    parser.add_argument("--configurations", nargs="+", choices=list(CONFIGURATIONS), default=list(CONFIGURATIONS))
    options = parser.parse_args()
    parts = options.only or ["kills", "damage", "signals", *(["disks"] if os.geteuid() == 0 else [])]
    every, few = options.configurations, ["together"]
    with tempfile.TemporaryDirectory() as folder:
        server.make_data(Path(folder))
        lab = Lab(Path(folder), epochs=2 if options.short else 6)
        server.preload(lab.words(Path(folder) / "preload", TOGETHER), Path(folder) / "preload.txt")
        if "kills" in parts:
            each = -(-options.kills // len(CONFIGURATIONS))
            measure_kills(lab, 6 if options.short else each, few if options.short else every)
        if "damage" in parts:
            kinds, files = (["flipped in the middle"], "*m*.*") if options.short else (list(DAMAGE), "*")
            measure_damage(lab, kinds, few if options.short else _in(every, "plain", "together"), files)
        if "signals" in parts:
            moments = ["middle"] if options.short else list(MOMENTS)
            measure_signals(lab, moments, few if options.short else _in(every, "plain", "two workers"))
        if "disks" in parts and not options.short:
            measure_full_disks(lab, 10, _in(every, "plain", "together"))
    print("\n".join(["", *lab.table.problems, f"{len(lab.table.problems)} problems"]))
    return bool(lab.table.problems)


if __name__ == "__main__":
    sys.exit(main())

"""What the Python peers share: the start that tinygpt saved, the clock, and the form of the results.

A peer trains from a file of `tinygpt bench --save-start` (runtime/src/commands/bench/start.rs describes it): the same weights, the
same batches and the same constants as tinygpt's own steps. It gives this module a `Trainer`, and one of two things is done with it:

- `run_once`: the batches of the file, one step each, whose losses are kept; WARMUP_STEPS steps on the file's timed batch; then timed
  steps, each with its loss read. One JSON object is printed.
- `serve`: the first batches likewise, and then, for each line "STEPS" read from standard input, the mean time of so many steps that
  are not waited for one by one. One JSON object a line is printed: first what was prepared, then each time.

Invariants:
- The configuration of the model comes from the file alone, and its parameter count must be that of the model's formula.
- Standard output carries only JSON.
"""

import argparse
import json
import math
import os
import resource
import statistics
import sys
import time
from dataclasses import dataclass

# Untimed steps on the batch that is timed.
WARMUP_STEPS = 3
# Untimed time before each measurement of `serve`: an idle GPU lowers its clock.
SERVE_WARMUP_S = 0.25
# One clock tick of proc(5): Linux shows every program 100 a second.
TICK_S = 0.01


@dataclass(frozen=True)
class Preset:
    ctx: int
    layers: int
    heads: int
    d_model: int
    batch: int
    vocab: int = 256
    gelu: str = "erf"  # or "tanh"

    def params(self) -> int:
        c = self.d_model
        return self.vocab * c + self.ctx * c + 2 * c + self.layers * (12 * c * c + 13 * c)


class Start:
    """A file of `tinygpt bench --save-start`."""

    def __init__(self, path: str):
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            self.header = json.loads(file.read(length))
        self.path, self.data_at = path, 8 + length
        meta = self.header.pop("__metadata__")
        self.name = meta["preset"]
        whole = {key: int(meta[key]) for key in ("ctx", "layers", "heads", "d_model", "batch", "vocab")}
        self.preset = Preset(**whole, gelu=meta["gelu"])
        if int(meta["d_mlp"]) != 4 * self.preset.d_model:
            sys.exit(f"{path} has a d_mlp of {meta['d_mlp']}, expected 4 d_model = {4 * self.preset.d_model}")
        self.lr, self.eps = float(meta["lr"]), float(meta["eps"])
        self.betas = float(meta["beta1"]), float(meta["beta2"])
        self.weight_decay, self.grad_clip = float(meta["weight_decay"]), float(meta["grad_clip"])

    def tensor(self, name: str):
        """The tensor as a numpy array of its own."""
        import numpy

        info = self.header[name]
        dtype = {"F32": numpy.float32, "I32": numpy.int32}[info["dtype"]]
        begin, end = info["data_offsets"]
        with open(self.path, "rb") as file:
            file.seek(self.data_at + begin)
            return numpy.frombuffer(bytearray(file.read(end - begin)), dtype).reshape(info["shape"])

    def weights(self) -> dict:
        """Starting weights by name, linear weights as [out, in]."""
        names = [name.removeprefix("init.") for name in self.header if name.startswith("init.")]
        return {name: self.tensor(f"init.{name}") for name in names}

    def check_params(self, count: int) -> int:
        if count != self.preset.params():
            sys.exit(f"preset {self.name} has {count} parameters here, expected {self.preset.params()}: the model is not tinygpt's")
        return count


class Trainer:
    """One framework's model and optimizer. Subclasses fill in all of it."""

    params: int
    versions: dict  # of the framework: name -> version

    def set_batch(self, ids, targets):
        """The numpy i32 [B, T] of the following steps."""
        raise NotImplementedError

    def step(self):
        """Begin one step: forward, backward, clip, AdamW."""
        raise NotImplementedError

    def loss(self) -> float:
        """The loss of the last step, before its update, once the step is done."""
        raise NotImplementedError


def process_age_s():
    """Seconds since this process was started, in hundredths; None where the system does not tell."""
    try:
        with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
            # Field 22; field 2 is in parentheses and may hold anything.
            ticks = int(stat.read().rpartition(")")[2].split()[22 - 3])
            return round(float(uptime.read().split()[0]) - ticks * TICK_S, 2)
    except OSError:
        return None


def peak_rss_mib() -> float:
    # ru_maxrss is in KiB on Linux and in bytes on macOS (getrusage(2)).
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(rss / 2**20 if sys.platform == "darwin" else rss / 2**10, 1)


def finite(loss: float, name: str) -> float:
    if not math.isfinite(loss):
        sys.exit(f"preset {name}: the loss is {loss}, so there is no training step to time")
    return loss


def first_steps(trainer: Trainer, start: Start, count: int):
    """The losses of the file's first `count` batches, the batch that is timed set afterwards; and when the first step was done."""
    ids, targets = start.tensor("ids"), start.tensor("targets")
    if count > len(ids):
        sys.exit(f"{start.path} holds the batches of {len(ids)} steps, and {count} were asked for: save it with --losses {count}")
    losses, first_step_s = [], None
    for at in range(count):
        trainer.set_batch(ids[at], targets[at])
        trainer.step()
        losses.append(finite(trainer.loss(), start.name))
        if first_step_s is None:
            first_step_s = process_age_s()
    trainer.set_batch(start.tensor("timed.ids"), start.tensor("timed.targets"))
    return losses, first_step_s


def run_once(trainer: Trainer, start: Start, args) -> dict:
    losses, first_step_s = first_steps(trainer, start, args.losses)
    for _ in range(WARMUP_STEPS):
        trainer.step()
        finite(trainer.loss(), start.name)
        if first_step_s is None:
            first_step_s = process_age_s()
    times_ms = []
    for _ in range(args.steps):
        begin = time.perf_counter()
        trainer.step()
        loss = trainer.loss()
        times_ms.append(1e3 * (time.perf_counter() - begin))
        finite(loss, start.name)
    times_ms.sort()
    return {
        **prepared(trainer, start, args, losses),
        "first_step_s": first_step_s,
        "steps": args.steps,
        "ms_per_step": {
            "median": round(statistics.median(times_ms), 4),
            "min": round(times_ms[0], 4),
            "p90": round(times_ms[math.ceil(0.9 * len(times_ms)) - 1], 4),  # nearest rank
        },
        "peak_rss_mib": peak_rss_mib(),
    }


def prepared(trainer: Trainer, start: Start, args, losses: list) -> dict:
    return {
        "preset": start.name,
        "threads": args.threads,
        "params": start.check_params(trainer.params),
        "versions": trainer.versions,
        "losses": losses,
    }


def serve(trainer: Trainer, start: Start, args):
    losses, _ = first_steps(trainer, start, args.losses)
    print(json.dumps({**prepared(trainer, start, args, losses), "ready_s": process_age_s()}), flush=True)
    for line in sys.stdin:
        steps = int(line)
        until = time.perf_counter() + SERVE_WARMUP_S
        while time.perf_counter() < until:
            trainer.step()
            trainer.loss()
        begin = time.perf_counter()
        for _ in range(steps):
            trainer.step()
        loss = trainer.loss()
        mean_ms = 1e3 * (time.perf_counter() - begin) / steps
        finite(loss, start.name)
        print(json.dumps({"ms_per_step": round(mean_ms, 4)}), flush=True)


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {value}, expected a whole number of at least 1")
    return value


def parser(description: str) -> argparse.ArgumentParser:
    """The flags that every peer has."""
    flags = argparse.ArgumentParser(description=description)
    flags.add_argument("--start", required=True, metavar="F", help="file of `tinygpt bench --save-start F`")
    flags.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    flags.add_argument("--threads", type=positive, default=os.cpu_count(), metavar="N", help="of the CPU; default: every core")
    flags.add_argument("--losses", type=int, default=0, metavar="N", help="first steps, on the file's batches, whose losses are printed")
    flags.add_argument("--steps", type=positive, default=20, metavar="N", help=f"timed steps, after {WARMUP_STEPS} untimed ones (default: 20)")
    flags.add_argument("--serve", action="store_true", help="prepare, then time as many steps as each line of standard input says")
    return flags


def main(args, make_trainer):
    start = Start(args.start)
    trainer = make_trainer(start, args)
    if args.serve:
        serve(trainer, start, args)
    else:
        print(json.dumps(run_once(trainer, start, args)), flush=True)

#!/usr/bin/env python3
"""Training steps of tinygpt, PyTorch and JAX on one GPU, in one run: prints a table. gpu.sh beside this file calls it.

Every peer of a preset is a process that starts from the file which tinygpt saved, prepares (compiles, captures its graph, takes the
first steps whose losses are compared) and then waits. Preparing happens side by side on all cores, since torch.compile and XLA
take long; a peer that is not ready within --prepare-s is ended, and its cell is a dash. Then nothing runs but what is timed: in each
round every peer of a preset takes --steps steps that are not waited for one by one. tinygpt is a process of its own in the
middle round; its figure is the median of means of five steps that overlap. With --tune-s it first searches for variants (`tinygpt tune`),
as the peers' compilers do while they prepare, while nothing else runs.

Invariants:
- The GPU is idle but for the side that is timed.
- An f32 side whose losses differ from those of tinygpt's f32 steps by more than LOSS_TOLERANCE is reported, and so is a preset at which tinygpt
  failed; the exit status then is 1.
  Other precisions are shown with their largest difference.
- A figure is the median over rounds of the mean of each round's steps, in milliseconds.
"""

import argparse
import json
import math
import os
import platform
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
LOSSES = 20
LOSS_TOLERANCE = 1e-3

# Name of a column, script, its flags.
PEERS = [
    ("torch f32 eager", "torch_step.py", ["--mode", "eager"]),
    ("torch f32 graph", "torch_step.py", ["--mode", "graph"]),
    ("torch tf32 graph", "torch_step.py", ["--mode", "graph", "--precision", "tf32"]),
    ("torch bf16 graph", "torch_step.py", ["--mode", "graph", "--precision", "bf16"]),
    ("jax f32", "jax_step.py", ["--mode", "plain"]),
]
# The same without CUDA, for trying this script.
PEERS_ON_CPU = [
    ("torch f32 eager", "torch_step.py", ["--mode", "eager"]),
    ("jax f32", "jax_step.py", ["--mode", "plain"]),
]
OURS = [("tinygpt f32", []), ("tinygpt mixed", ["--precision", "mixed"])]
# Presets that JAX is not asked for: its compiler takes minutes.
NOT_JAX = {"gpt2"}
# Steps of a round where they are long: preset -> the most.
FEWER_STEPS = {"gpt2": 5}


class Peer:
    """A peer's process: `ready` is what it said once prepared, None before or if it never will be."""

    def __init__(self, name: str, command: list, env: dict, log: str):
        self.name, self.ready, self.ms, self.log = name, None, [], log
        self.lines = queue.Queue()
        with open(log, "wb") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=env, text=True)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def answer(self, timeout: float):
        """The next object the process prints; None where it ends or takes longer."""
        try:
            line = self.lines.get(timeout=max(timeout, 0.01))
        except queue.Empty:
            return None
        return None if line is None else json.loads(line)

    def time(self, steps: int):
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer = self.answer(120)
        if answer is None:
            self.end()
            return
        self.ms.append(answer["ms_per_step"])

    def end(self):
        self.process.kill()
        self.process.wait()

    def figure(self):
        return statistics.median(self.ms) if self.ms else None


def say(text: str):
    print(f"[{time.perf_counter() - BEGUN:6.1f} s] {text}", file=sys.stderr, flush=True)


def start_file(args, preset: str) -> str:
    path = os.path.join(args.work, f"{preset}.safetensors")
    if not os.path.exists(path):
        command = [args.tinygpt, "bench", "--preset", preset, "--losses", str(LOSSES), "--save-start", path]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def begin_peers(args, preset: str) -> list:
    start = start_file(args, preset)
    env = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", TORCHINDUCTOR_COMPILE_THREADS="2")
    begun = []
    for name, script, flags in PEERS if args.device == "cuda" else PEERS_ON_CPU:
        if (script == "jax_step.py" and preset in NOT_JAX) or (args.only and not any(word in name for word in args.only)):
            continue
        command = [sys.executable, os.path.join(HERE, script), "--start", start, "--losses", str(LOSSES), "--serve"]
        command += ["--threads", "2", "--device", args.device, *flags]
        log = os.path.join(args.work, f"{preset}-{name.replace(' ', '-')}.log")
        begun.append(Peer(name, command, env, log))
    return begun


def ours(args, preset: str, steps: int, flags: list):
    """One run of `tinygpt bench`; None, said, where it fails."""
    backend = "gpu" if args.device == "cuda" else "cpu"
    command = [args.tinygpt, "bench", "--json", "--preset", preset, "--backend", backend, "--losses", str(LOSSES)]
    run = subprocess.run(command + ["--steps", str(steps), *flags], capture_output=True, text=True)
    if run.returncode != 0:
        message = run.stderr.strip().splitlines()[-1:] or ["no message"]
        say(f"tinygpt {' '.join(flags)} of {preset} is left out: {message[0]}")
        return None
    return json.loads(run.stdout)


def tune(args, preset: str, flags: list):
    """Lets tinygpt search for variants for --tune-s seconds; its runs take them from its cache."""
    command = [args.tinygpt, "tune", "--json", "--preset", preset, "--seconds", str(args.tune_s), *flags]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed: {run.stderr.strip()}")
    found = json.loads(run.stdout)
    say(f"{preset} {' '.join(flags)}: {found['tried']} variants tried, {found['ms_before']:.3f} -> {found['ms']:.3f} ms")


def measure(args, preset: str, peers: list) -> dict:
    """All sides of a preset, the peers prepared: column -> {ms, losses, ...}."""
    steps = min(args.steps, FEWER_STEPS.get(preset, args.steps))
    peers = [peer for peer in peers if peer.ready]
    cells = {}
    for number in range(args.rounds):
        if number == args.rounds // 2:
            for name, flags in OURS:
                found = ours(args, preset, steps * args.rounds, flags)
                if found is not None:
                    cells[name] = {"ms": found["ms_per_step"]["median"], "first_step_s": found["first_step_s"]}
                    cells[name].update(losses=found["losses"], adapter=found["adapter"])
        for peer in peers if number % 2 == 0 else reversed(peers):
            if peer.process.poll() is None:
                peer.time(steps)
    for peer in peers:
        if peer.figure() is not None:
            cells[peer.name] = {"ms": peer.figure(), "losses": peer.ready["losses"], "ready_s": peer.ready["ready_s"], "rounds": peer.ms}
        peer.end()
    reference = cells.get("tinygpt f32", {}).get("losses")
    for cell in cells.values():
        cell["loss_distance"] = None if reference is None else distance(reference, cell["losses"])
    return cells


def distance(ours: list, theirs: list) -> float:
    """The largest difference of two lists of losses; infinite where they are not as many or one is no number."""
    if len(ours) != len(theirs) or not all(map(math.isfinite, ours + theirs)):
        return math.inf
    return max((abs(a - b) for a, b in zip(ours, theirs)), default=0.0)


def table(results: dict) -> str:
    names = [name for name, _ in OURS] + [name for name, _, _ in PEERS]
    lines = ["| preset | " + " | ".join(names) + " | f32 ratio to the best f32 peer | mixed ratio to the best peer below f32 |"]
    lines.append("|---" * (len(names) + 3) + "|")
    for preset, cells in results.items():
        ms = {name: cells[name]["ms"] for name in names if name in cells}

        def ratio(name, *others):
            best = min((ms[other] for other in others if other in ms), default=None)
            return f"{ms[name] / best:.2f}" if best and name in ms else "–"

        row = [f"{ms[name]:.3f}" if name in ms else "–" for name in names]
        row.append(ratio("tinygpt f32", "torch f32 eager", "torch f32 graph", "jax f32"))
        row.append(ratio("tinygpt mixed", "torch tf32 graph", "torch bf16 graph"))
        lines.append(f"| {preset} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def tool(command: list) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def main() -> int:
    flags = argparse.ArgumentParser(description="Time training steps of tinygpt, PyTorch and JAX on one GPU.")
    flags.add_argument("--tinygpt", required=True, metavar="PATH", help="the tinygpt command")
    flags.add_argument("--preset", default="small,medium,large,xl,huge,gpt2", metavar="P[,P..]")
    flags.add_argument("--only", type=lambda text: text.split(","), metavar="WORD[,WORD..]", help="peers whose name holds a word")
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--steps", type=int, default=30, help="of a round; default: 30, at gpt2 5")
    flags.add_argument("--prepare-s", type=float, default=100.0, help="seconds in which the peers prepare; default: 100")
    flags.add_argument("--tune-s", type=int, default=0, help="seconds for which tinygpt searches for variants first, each preset and precision; default: 0")
    flags.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries this script without a GPU")
    flags.add_argument("--json", metavar="F", help="write every figure there")
    args = flags.parse_args()
    args.tinygpt = os.path.abspath(args.tinygpt)
    args.work = tempfile.mkdtemp(prefix="tinygpt-peers-")
    presets = args.preset.split(",")

    if args.tune_s > 0:
        for preset in presets:
            for _, ours_flags in OURS:
                tune(args, preset, ours_flags)
    deadline = time.perf_counter() + args.prepare_s
    with ThreadPoolExecutor(len(presets)) as pool:
        peers = dict(zip(presets, pool.map(lambda preset: begin_peers(args, preset), presets)))
    for preset, begun in peers.items():
        for peer in begun:
            peer.ready = peer.answer(deadline - time.perf_counter())
            if peer.ready:
                say(f"{preset}, {peer.name}: ready {peer.ready['ready_s']} s after its start")
            else:
                why = "was not ready in time" if peer.process.poll() is None else "failed"
                peer.end()
                with open(peer.log, errors="replace") as log:
                    say(f"{preset}, {peer.name}: {why}: {(log.read().strip().splitlines() or ['no message'])[-1][:300]}")

    results, status = {}, 0
    for preset in presets:
        results[preset] = measure(args, preset, peers[preset])
        say(f"{preset}: " + ", ".join(f"{name} {cell['ms']:.3f}" for name, cell in results[preset].items()))
        if args.json:
            with open(args.json, "w") as out:
                json.dump(results, out)

    versions = sorted({f"{k} {v}" for begun in peers.values() for p in begun if p.ready for k, v in p.ready["versions"].items()})
    adapter = next((cell["adapter"] for cells in results.values() for cell in cells.values() if "adapter" in cell), "no adapter")
    driver = tool(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]) or "no NVIDIA driver"
    print(f"{adapter}; {driver}; {', '.join(versions)}; Python {platform.python_version()}")
    if args.tune_s > 0:
        print(f"tinygpt after {args.tune_s} s of `tinygpt tune`, each preset and precision")
    print(f"ms a step: medians of {args.rounds} rounds of {args.steps} steps ({', '.join(f'{p}: {n}' for p, n in FEWER_STEPS.items())})\n")
    print(table(results))
    print()
    for preset, cells in results.items():
        distances = [f"{name} {cell['loss_distance']:.1e}" for name, cell in cells.items() if cell["loss_distance"] is not None]
        print(f"losses of the first {LOSSES} steps beside tinygpt f32's, {preset}: " + ", ".join(distances))
        if "tinygpt f32" not in cells:
            print(f"{preset}: tinygpt f32 has no figure, and the losses of the others nothing to be compared with")
            status = 1
            continue
        for name, cell in cells.items():
            if "f32" in name.split() and not cell["loss_distance"] <= LOSS_TOLERANCE:
                print(f"{preset}: {name} does not train the same model")
                status = 1
    return status


BEGUN = time.perf_counter()
if __name__ == "__main__":
    sys.exit(main())

"""How fast training runs on this machine: clips made per second, and batches learned per second by one process and two.

    python benchmarks/training.py
    python benchmarks/training.py --here "--views 0" --against OTHER_CHECKOUT/src -- --batch 4 --frames 6 --crop 129

What follows `--` goes to `tubelet train RECIPE` of both checkouts, `--here` to that of this one alone (options that the
other does not know). They take turns, so that a noisy machine is the same for both. The first half of a run's steps is
not counted. Every process has one thread.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import tubelet
from tubelet.train.log import read_log

HERE = Path(tubelet.__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="aost-cpu")
    parser.add_argument("--steps", type=int, default=20, help="of each run")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--against", type=Path, help="the `src` of another checkout; it runs with one process")
    parser.add_argument("--here", type=shlex.split, default=[], help="options of the recipe of this checkout alone")
    parser.add_argument("options", nargs="*", help="of the recipe")
    args = parser.parse_args()

    ours = [*args.options, *args.here]
    print(f"clips made by one core: {clips_per_second(args.recipe, ours):.1f} per second")
    runs = [(f"{n} process{'es' if n > 1 else ''}", HERE, n) for n in args.processes]
    if args.against is not None:
        runs.insert(0, (str(args.against), args.against.resolve(), 1))
    best: dict[str, float] = {}
    for _ in range(args.rounds):
        for name, source, processes in runs:
            options = ours if source == HERE else args.options
            steps = steps_per_second(source, args.recipe, args.steps, processes, options)
            print(f"{name}: {steps:.3f} steps per second, {steps * processes:.3f} batches")
            best[name] = max(best.get(name, 0.0), steps * processes)
    first = best[runs[0][0]]
    for name, batches in best.items():
        print(f"best of {name}: {batches:.3f} batches per second, {batches / first:.2f} times {runs[0][0]}")


def steps_per_second(source: Path, recipe: str, steps: int, processes: int, options: Sequence[str]) -> float:
    """Of the second half of a run."""
    launch = ["-m", "tubelet"] if processes == 1 else ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    launch += [] if processes == 1 else ["-m", "tubelet"]
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, *launch, "train", recipe, "--steps", str(steps), "--run.out", out]
        command += ["--run.log-every", str(steps // 2), *options]
        environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        half, whole = (entry for entry in read_log(Path(out) / recipe / "log.jsonl") if "rate" in entry)
    return (whole["step"] - half["step"]) / (whole["step"] / whole["rate"] - half["step"] / half["rate"])


def clips_per_second(recipe: str, options: Sequence[str]) -> float:
    """Of the recipe's sources, with the options that matter to them."""
    import tyro

    from tubelet.data.loader import ClipStream
    from tubelet.recipes.vos import RECIPES, VosRecipe, read_material, sources

    chosen = tyro.cli(VosRecipe, default=RECIPES[recipe], args=list(options))
    stream = ClipStream(sources(chosen, read_material(chosen.data)), batch=1)
    for number in range(20):  # textures are made when they are first asked for
        stream.clip(number)
    began = time.process_time()
    for number in range(20, 80):
        stream.clip(number)
    return 60 / (time.process_time() - began)


if __name__ == "__main__":
    main()

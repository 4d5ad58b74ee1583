"""Whole frames through a session: frames per second and peak memory, float32 against bfloat16.

    OMP_NUM_THREADS=1 python benchmarks/frame.py
    python benchmarks/frame.py --device cuda --frames 60

Each row is a process of its own, so that its peak memory is its own. Weights are random: they change no time. The
precisions of a model take turns, `--rounds` times, and the medians are shown.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from tubelet.data.synthetic import make_clip
from tubelet.models.aot.model import build
from tubelet.types import Frame, Prompt

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Seconds per frame (the median of all but frame 0) and peak memory in MB, of the process or of the GPU."""
    h, w = args.size
    clip, truth = make_clip(0, frames=8, size=(h, w), objects=(args.objects, args.objects), pace=1.0)
    torch.manual_seed(0)
    model = build(args.model[0]).eval().to(args.device)
    session = model.session(autocast=PRECISIONS[args.precision])
    clock = time.process_time if args.device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    seconds = []
    for t in range(args.frames + 1):
        start = clock()
        # The answer is on the CPU, so the GPU has finished the labels; what it still does is counted in the next frame.
        session.feed(Frame(clip[t % len(clip)], t), Prompt(truth[0]) if t == 0 else None)
        seconds.append(clock() - start)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = torch.cuda.max_memory_allocated() / 1e6 if args.device == "cuda" else kilobytes / 1e3
    return {"seconds": statistics.median(seconds[1:]), "memory": memory}


def in_a_process(args: argparse.Namespace, model: str, precision: str) -> dict[str, float]:
    options = {"--device": args.device, "--frames": args.frames, "--objects": args.objects, "--precision": precision}
    command = [sys.executable, __file__, "--model", model, "--size", *map(str, args.size)]
    command += [str(x) for pair in options.items() for x in pair]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["aot-t", "r50-aot-l"])
    parser.add_argument("--size", nargs=2, type=int, default=[480, 854], metavar=("H", "W"))
    parser.add_argument("--objects", type=int, default=3)
    parser.add_argument("--frames", type=int, default=12, help="timed frames, after frame 0")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", choices=PRECISIONS, help=argparse.SUPPRESS)  # set for a process of one row
    args = parser.parse_args()
    if args.precision:
        print(json.dumps(measure(args)))
        return
    h, w = args.size
    print(f"{w}x{h}, {args.objects} objects, {args.device}, {torch.get_num_threads()} threads")
    print(f"{'model':>12} {'precision':>9} {'ms':>8} {'frames/s':>9} {'peak MB':>8} {'speed-up':>9}")
    for model in args.model:
        runs = [{p: in_a_process(args, model, p) for p in PRECISIONS} for _ in range(args.rounds)]
        full = statistics.median(run["float32"]["seconds"] for run in runs)
        for precision in PRECISIONS:
            seconds = statistics.median(run[precision]["seconds"] for run in runs)
            memory = max(run[precision]["memory"] for run in runs)
            columns = f"{1e3 * seconds:8.0f} {1 / seconds:9.2f} {memory:8.0f} {full / seconds:8.2f}x"
            print(f"{model:>12} {precision:>9} {columns}", flush=True)


if __name__ == "__main__":
    main()

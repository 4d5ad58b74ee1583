"""Does memory grow with the length of a video? An endless stream of small frames through one session.

OMP_NUM_THREADS=1 python benchmarks/memory.py
OMP_NUM_THREADS=1 python benchmarks/memory.py --model aost --frames 5000
"""

import argparse
import os
import time
from itertools import cycle, islice
from pathlib import Path

import torch

from tubelet.data.synthetic import make_clip
from tubelet.models.aot.model import build
from tubelet.types import Frame, Prompt

FROM, LIMIT = 200, 50  # growth is counted from this frame on, and should stay under so many MB


def resident() -> float:
    """Resident memory of this process in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="aot-l")
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--size", nargs=2, type=int, default=[96, 128], metavar=("H", "W"))
    parser.add_argument("--max-memory", type=int, default=10, help="long-term frames; 0 for no bound")
    args = parser.parse_args()
    clip, truth = make_clip(0, frames=24, size=tuple(args.size), objects=(3, 3), pace=1.0)
    torch.manual_seed(0)
    session = build(args.model).eval().session(max_memory=args.max_memory or None)
    there_and_back = cycle([*clip, *clip[-2:0:-1]])
    report = {50, FROM, 500, 1000, 2000, args.frames}
    print(f"{args.model}, {args.size[1]}x{args.size[0]}, {args.max_memory or 'all'} long-term frames")
    print(f"{'frame':>6} {'resident MB':>12} {'since ' + str(FROM):>10} {'long-term':>10} {'ms/frame':>9}")
    at_start, last, start = 0.0, 0, time.process_time()
    for t, rgb in enumerate(islice(there_and_back, args.frames + 1)):
        session.feed(Frame(rgb, t), Prompt(truth[0]) if t == 0 else None)
        if t not in report:
            continue
        memory, pace = resident(), 1e3 * (time.process_time() - start) / (t - last)
        at_start = memory if t <= FROM else at_start
        kept = len(session.views[0].groups[0].long[0].given)
        print(f"{t:6} {memory:12.1f} {memory - at_start:+10.1f} {kept:10} {pace:9.1f}", flush=True)
        last, start = t, time.process_time()
    grown = resident() - at_start
    print(f"growth from frame {FROM} to {args.frames}: {grown:.1f} MB ({'under' if grown < LIMIT else 'OVER'} {LIMIT})")


if __name__ == "__main__":
    main()

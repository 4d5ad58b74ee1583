"""Does memory grow with the length of a video? An endless stream of small frames through one session.

OMP_NUM_THREADS=1 python benchmarks/memory.py
OMP_NUM_THREADS=1 python benchmarks/memory.py --model aost --frames 5000
OMP_NUM_THREADS=1 python benchmarks/memory.py --model syncvis-tiny --window 8
OMP_NUM_THREADS=1 python benchmarks/memory.py --model mpvss-tiny
OMP_NUM_THREADS=1 python benchmarks/memory.py --model syncvis-r50 --size 360 640 --frames 100 --window 0    # as a whole
"""

import argparse
import os
import resource
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import torch

from tubelet.data.synthetic import make_clip
from tubelet.models.base import Session
from tubelet.types import Frame, Prompt
from tubelet.weights import build, finds_objects, knows_classes, labels_pixels

FROM, LIMIT = 200, 50  # growth is counted from this frame on, and should stay under so many MB


def resident() -> float:
    """Resident memory of this process in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_session(args: argparse.Namespace) -> tuple[Session, str, Callable[[], int]]:
    """The session, what bounds its memory, and how many frames it holds."""
    model = build(args.model).eval()
    if finds_objects(args.model):
        whole = {"window": 10**9, "overlap": 0}
        live = model.session(short_edge=min(args.size), **({"window": args.window} if args.window else whole))
        return live, f"windows of {args.window or 'all'} frames", lambda: len(live.clip)
    if labels_pixels(args.model):
        live = model.session(short_edge=min(args.size), long_edge=max(args.size))
        return live, "one key frame", lambda: live.key is not None
    live = model.session(max_memory=args.max_memory or None)
    groups = live.views[0].groups
    return live, f"{args.max_memory or 'all'} long-term frames", lambda: len(groups[0].long[0].given)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="aot-l")
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--size", nargs=2, type=int, default=[96, 128], metavar=("H", "W"))
    parser.add_argument("--max-memory", type=int, default=10, help="AOT: long-term frames; 0 for no bound")
    parser.add_argument("--window", type=int, default=8, help="SyncVIS, Mask2Former: frames seen together; 0 for all")
    args = parser.parse_args()
    clip, truth = make_clip(0, frames=24, size=tuple(args.size), objects=(3, 3), pace=1.0)
    torch.manual_seed(0)
    session, bound, held = open_session(args)
    there_and_back = cycle([*clip, *clip[-2:0:-1]])
    first = min(FROM, args.frames // 2)
    report = {first, 50, FROM, 500, 1000, 2000, args.frames}
    print(f"{args.model}, {args.size[1]}x{args.size[0]}, {bound}")
    print(f"{'frame':>6} {'resident MB':>12} {'since ' + str(first):>10} {'held':>10} {'ms/frame':>9}")
    at_start, last, start = 0.0, 0, time.process_time()
    for t, rgb in enumerate(islice(there_and_back, args.frames + 1)):
        session.feed(Frame(rgb, t), Prompt(truth[0]) if t == 0 and not knows_classes(args.model) else None)
        if t not in report:
            continue
        memory, pace = resident(), 1e3 * (time.process_time() - start) / (t - last)
        at_start = memory if t <= first else at_start
        print(f"{t:6} {memory:12.1f} {memory - at_start:+10.1f} {held():10} {pace:9.1f}", flush=True)
        last, start = t, time.process_time()
    grown = resident() - at_start
    print(
        f"growth from frame {first} to {args.frames}: {grown:.1f} MB ({'under' if grown < LIMIT else 'OVER'} {LIMIT})"
    )
    start = time.process_time()
    session.finish()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(f"what was owed took {time.process_time() - start:.1f} s; the peak of all was {peak:.0f} MB")


if __name__ == "__main__":
    main()

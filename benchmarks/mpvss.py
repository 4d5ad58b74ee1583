"""MPVSS: what a key frame, a frame between and their average cost, against Mask2Former on every frame.

    OMP_NUM_THREADS=1 python benchmarks/mpvss.py
    python benchmarks/mpvss.py --device cuda --model mpvss-swin-b

Whole frames through a session: from RGB to the class of every pixel. The two precisions take turns, `--rounds` times.
Weights are random; masks and classes are then spread as those of a trained model are not, so `--relevant` says how many
queries matter, and the others are left out as a session does.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor

from tubelet.data.synthetic import make_clip
from tubelet.models.key_frames import KeyFrameSession
from tubelet.models.mpvss import build
from tubelet.types import Frame

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


class Few(KeyFrameSession):
    """A session whose key frames have so many queries that matter."""

    relevant = 100

    def _new_key(self, image: Tensor) -> Tensor:
        super()._new_key(image)
        assert self.key is not None
        self.choice = self.choice[: self.relevant]
        return self.key.prediction.mask_logits[0, self.choice, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mpvss-r50")
    parser.add_argument("--classes", type=int, default=124)
    parser.add_argument("--size", nargs=2, type=int, default=[480, 853], metavar=("H", "W"))
    parser.add_argument("--interval", type=int, default=5)
    parser.add_argument("--relevant", type=int, default=30, help="queries that matter; 100: all")
    parser.add_argument("--rounds", type=int, default=3, help="of an interval each")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args()
    h, w = args.size
    clip, _ = make_clip(0, frames=8, size=(h, w), objects=(3, 3), pace=1.0)
    torch.manual_seed(0)
    model = build(args.model, args.classes).to(memory_format=torch.channels_last).eval().to(args.device)  # pyright: ignore[reportCallIssue]
    size = {"short_edge": min(h, w), "long_edge": max(h, w)}
    Few.relevant = args.relevant
    sessions = {name: Few(model, interval=args.interval, **size, autocast=p) for name, p in PRECISIONS.items()}
    clock = time.process_time if args.device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[tuple[str, bool], list[float]] = {(name, key): [] for name in PRECISIONS for key in (True, False)}
    for t in range(args.rounds * args.interval + 1):
        for name, session in sessions.items():
            before, start = session.keys, clock()
            session.feed(Frame(clip[t % len(clip)], t))  # the answer is on the CPU, so a GPU has finished it
            if t:  # the first frame warms up
                seconds[name, session.keys > before].append(clock() - start)
    print(f"{args.model}, {w}x{h}, {args.classes} classes, interval {args.interval}, {args.relevant} queries, "
          f"{args.device}, {torch.get_num_threads()} threads")  # fmt: skip
    print(f"{'':>9} {'key ms':>8} {'between ms':>11} {'of a key':>9} {'average ms':>11} {'faster than per frame':>22}")
    for name in PRECISIONS:
        key, other = (statistics.median(seconds[name, which]) for which in (True, False))
        mean = (key + (args.interval - 1) * other) / args.interval
        print(
            f"{name:>9} {1e3 * key:8.0f} {1e3 * other:11.0f} {other / key:9.2f} {1e3 * mean:11.0f} {key / mean:21.2f}x"
        )


if __name__ == "__main__":
    main()

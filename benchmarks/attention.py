"""Short-term attention: the fast formulation against the plain one and against a dense one, in the same run.

OMP_NUM_THREADS=1 python benchmarks/attention.py
python benchmarks/attention.py --device cuda
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.nn.attention import inside_window, local_attention, local_attention_plain

HEADS, CHANNELS, WINDOW = 8, 32, 15
CASES = [(1, 31, 54), (1, 30, 30), (4, 13, 13)]  # batch, rows, columns: a 480p frame, a 465 px crop, a 193 px crop


def dense(q: Tensor, k: Tensor, v: Tensor, relative: Tensor, relative_value: Tensor, *, unfold: bool) -> Tensor:
    """As the reference does it: the local weights are scattered into a dense matrix over the padded map,
    (B, heads, hw, (h + 14)(w + 14)), which is multiplied with the values.

    The scores before that: the keys of all windows unfolded, as in the reference's fallback in plain PyTorch, or
    offset by offset, closer to what its compiled extension does."""
    (b, heads, h, w, d), r = q.shape, WINDOW // 2
    k, v = (F.pad(x, (0, 0, r, r, r, r)) for x in (k, v))
    q = q * d**-0.5
    if unfold:
        windows = F.unfold(k.flatten(0, 1).permute(0, 3, 1, 2), WINDOW).view(b, heads, d, WINDOW**2, h, w)
        scores = (q.permute(0, 1, 4, 2, 3)[:, :, :, None] * windows).sum(2).permute(0, 1, 3, 4, 2) + relative
    else:
        offsets = [(dy, dx) for dy in range(WINDOW) for dx in range(WINDOW)]
        scores = torch.stack([(q * k[:, :, dy : dy + h, dx : dx + w]).sum(-1) for dy, dx in offsets], -1) + relative
    weights = scores.masked_fill(~inside_window(h, w, WINDOW, q.device), float("-inf")).softmax(-1)
    wide = w + 2 * r
    place = torch.arange(h, device=q.device)[:, None] * wide + torch.arange(w, device=q.device)
    offset = torch.arange(WINDOW, device=q.device)[:, None] * wide + torch.arange(WINDOW, device=q.device)
    key = (place.view(-1, 1) + offset.view(1, -1)).expand(b, heads, -1, -1)
    weights = weights.flatten(2, 3)
    matrix = weights.new_zeros(b, heads, h * w, (h + 2 * r) * wide).scatter_(3, key, weights)
    out = matrix @ v.flatten(2, 3) + weights @ relative_value.transpose(1, 2)
    return out.view(b, heads, h, w, d)


def race(runs: Mapping[str, Callable[[], object]], clock: Callable[[], float], repeats: int) -> dict[str, float]:
    """The median seconds of each, one after the other in every round, so that a slow moment of the machine hits all."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = clock()
            run()
            if turn > 0:  # the first round warms up
                seconds[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def gradient(call: Callable[[], Tensor], inputs: list[Tensor]) -> None:
    torch.autograd.grad(call().sum(), inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds")
    args = parser.parse_args()

    def clock() -> float:
        if args.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    ways: dict[str, Callable[..., Tensor]] = {
        "fast": lambda *x: local_attention(*x, window=WINDOW),
        "plain": lambda *x: local_attention_plain(*x, window=WINDOW),
        "dense": lambda *x: dense(*x, unfold=True),
        "dense*": lambda *x: dense(*x, unfold=False),
    }
    print(f"{HEADS} heads x {CHANNELS}, window {WINDOW}, {args.device}, {torch.get_num_threads()} threads, ms")
    print(
        f"{'tokens':>10} {'pass':>9}",
        *(f"{x:>7}" for x in ways),
        *(f"{x + '/fast':>11}" for x in list(ways)[1:]),
        " error",
    )
    for batch, h, w in CASES:
        torch.manual_seed(0)
        maps = [torch.randn(batch, HEADS, h, w, CHANNELS) for _ in range(3)]
        relative = [torch.randn(batch, HEADS, h, w, WINDOW**2), torch.randn(HEADS, CHANNELS, WINDOW**2)]
        inputs = [x.to(args.device).requires_grad_() for x in (*maps, *relative)]
        calls = {name: partial(way, *inputs) for name, way in ways.items()}
        gradients = {name: partial(gradient, call, inputs) for name, call in calls.items()}
        with torch.no_grad():
            error = max(float((calls["fast"]() - call()).abs().max()) for call in calls.values())
            forward = race(calls, clock, args.repeats)
        both = race(gradients, clock, args.repeats)
        for name, t in (("forward", forward), ("+backward", both)):
            times = (f"{1e3 * t[way]:7.1f}" for way in ways)
            ratios = (f"{t[way] / t['fast']:11.1f}" for way in list(ways)[1:])
            print(f"{batch}x{h}x{w}".rjust(10), name.rjust(9), *times, *ratios, f" {error:.0e}")
    print("dense: unfolded keys, as the reference's fallback; dense*: scores offset by offset")


if __name__ == "__main__":
    main()

"""AP of video instance segmentation: ours against the official algorithm written plainly, in the same run.

    OMP_NUM_THREADS=1 python benchmarks/vis_ap.py
    python benchmarks/vis_ap.py --videos 2000 --workers 2

Both read the same generated files (200 videos of 30 frames, 360x640, 17 predictions each) and must agree to 1e-9. Ours
uses all cores; the ratio per processor says what remains of the lead on one.
"""

import argparse
import json
import os
import tempfile
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pycocotools import mask as coco

from tubelet.metrics.vis_ap import score_vis

AREAS = {"": (0, 1e10), "s": (0, 128**2), "m": (128**2, 256**2), "l": (256**2, 1e10)}


# Generated files -----------------------------------------------------------------------------------------------------


def rough_ellipse(y: float, x: float, radius: float, size: tuple[int, int], bumps: np.ndarray) -> dict:
    """COCO RLE of a blob whose outline is uneven, as a network's is."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    dy, dx = rows - y, (columns - x) / 1.5
    wobble = 1 + bumps[((np.arctan2(dy, dx) + np.pi) * 40).astype(int)]
    rle = coco.encode(np.asfortranarray(dy**2 + dx**2 < (radius * wobble) ** 2, np.uint8))
    return {"size": list(size), "counts": bytes(rle["counts"]).decode()}  # pyright: ignore


def make_files(
    folder: Path, videos: int, frames: int, predictions: int, size: tuple[int, int], categories: int
) -> None:
    """truth.json and results.json: three to four instances a video, most predictions near one of them."""
    rng = np.random.default_rng(0)
    truth = {
        "videos": [
            {
                "id": v + 1,
                "height": size[0],
                "width": size[1],
                "length": frames,
                "file_names": [f"{v}/{t:05d}.jpg" for t in range(frames)],
            }
            for v in range(videos)
        ],
        "categories": [{"id": c + 1, "name": f"class {c + 1}"} for c in range(categories)],
        "annotations": [],
    }
    results = []
    library = _tubes(rng, 40, frames, size)
    for v in range(videos):
        chosen = rng.choice(len(library), rng.integers(3, 5), replace=False)
        of = rng.integers(1, categories + 1, len(chosen))
        for tube, category in zip(chosen, of):
            masks = [None if rng.random() < 0.1 else rle for rle in library[tube][0]]
            areas = [None if m is None else int(coco.area(m)) for m in masks]
            entry = {"id": len(truth["annotations"]) + 1, "video_id": v + 1, "category_id": int(category), "iscrowd": 0}
            truth["annotations"].append({**entry, "segmentations": masks, "areas": areas})
        for _ in range(predictions):
            near = rng.integers(len(chosen))
            masks = library[chosen[near]][rng.integers(1, len(library[0]))]
            category = int(of[near]) if rng.random() < 0.7 else int(rng.integers(1, categories + 1))
            entry = {"video_id": v + 1, "category_id": category, "score": float(rng.random())}
            results.append({**entry, "segmentations": masks})
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))


def _tubes(rng: np.random.Generator, count: int, frames: int, size: tuple[int, int]) -> list[list[list[dict]]]:
    """`count` instances, each with its true tube and five that are more and more off."""
    library = []
    for _ in range(count):
        radius = rng.uniform(0.1, 0.5) * size[0]
        path = rng.uniform((0.3, 0.3), (0.7, 0.7)) * size + np.cumsum(rng.normal(0, 4, (frames, 2)), 0)
        versions = []
        for error in (0, 0.05, 0.1, 0.2, 0.4, 0.8):
            y, x = path.T + rng.normal(0, 0.5, 2)[:, None] * error * radius
            bumps = 0.2 * np.convolve(rng.normal(0, 1, 512), np.ones(32) / 32, "same")
            versions.append(
                [rough_ellipse(b, a, radius, size, np.roll(bumps, t)) for t, (b, a) in enumerate(zip(y, x))]
            )
        library.append(versions)
    return library


# The official algorithm, plainly -------------------------------------------------------------------------------------


def plain(gt: Path, pred: Path) -> dict[str, float]:
    """The 12 numbers, step by step as the protocol says: everything in memory, one pair of frames at a time."""
    truth, results = json.loads(gt.read_text()), json.loads(pred.read_text())
    for number, det in enumerate(results, start=1):
        det["id"], det["iscrowd"] = number, 0
        det["areas"] = [None if m is None else coco.area(m) for m in det["segmentations"]]
        det["bboxes"] = [None if m is None else coco.toBbox(m) for m in det["segmentations"]]
    groups = [defaultdict(list), defaultdict(list)]
    for into, tubes in zip(groups, (truth["annotations"], results)):
        for tube in tubes:
            seen = [a for a in tube["areas"] if a]
            tube["mean_area"] = np.array(seen).mean() if seen else 0
            into[tube["video_id"], tube["category_id"]].append(tube)
    videos = sorted(v["id"] for v in truth["videos"])
    categories = sorted(c["id"] for c in truth["categories"])
    gts, dets = groups
    for key in dets:
        order = np.argsort([-d["score"] for d in dets[key]], kind="mergesort")
        dets[key] = [dets[key][i] for i in order[:100]]
    ious = {key: np.array([[plain_iou(d, g) for g in gts[key]] for d in dets[key]]) for key in dets if key in gts}
    evaluated = {
        (c, name): [
            plain_match(gts[v, c], dets[v, c], ious.get((v, c)), limits) for v in videos if gts[v, c] or dets[v, c]
        ]
        for c in categories
        for name, limits in AREAS.items()
    }
    cells = {
        (name, most): [cell for c in categories if (cell := plain_curve(evaluated[c, name], most))]
        for name in AREAS
        for most in (1, 10, 100)
    }
    return summary(cells)


def plain_iou(det: dict, gt: dict) -> float:
    shared = union = 0.0
    for d, g in zip(det["segmentations"], gt["segmentations"]):
        if d and g:
            shared += coco.area(coco.merge([d, g], True))
            union += coco.area(coco.merge([d, g], False))
        elif d or g:
            union += coco.area(d or g)
    return shared / union if union else 0.0


def plain_match(gts: list[dict], dets: list[dict], ious: np.ndarray | None, limits: tuple[float, float]) -> tuple:
    thresholds = np.linspace(0.5, 0.95, 10)
    ignore = np.array([bool(g["iscrowd"]) or not limits[0] <= g["mean_area"] <= limits[1] for g in gts], bool)
    order = np.argsort(ignore, kind="mergesort")
    matched, taken = np.zeros((10, len(dets))), np.zeros((10, len(gts)))
    ignored = np.zeros((10, len(dets)), bool)
    for t, threshold in enumerate(thresholds):
        for d, det in enumerate(dets):
            best, at = threshold, -1
            for g in order:
                if taken[t, g] > 0 and not gts[g]["iscrowd"]:
                    continue
                if at > -1 and not ignore[at] and ignore[g]:
                    break
                if ious is None or ious[d, g] < best:
                    continue
                best, at = ious[d, g], g
            if at > -1:
                ignored[t, d], matched[t, d], taken[t, at] = ignore[at], gts[at]["id"], det["id"]
    outside = np.array([not limits[0] <= d["mean_area"] <= limits[1] for d in dets], bool)
    ignored |= (matched == 0) & outside
    return [d["score"] for d in dets], matched, ignored, np.count_nonzero(~ignore)


def plain_curve(evaluated: list[tuple], most: int) -> tuple[np.ndarray, np.ndarray] | None:
    count = sum(e[3] for e in evaluated)
    if not count:
        return None
    order = np.argsort(-np.concatenate([e[0][:most] for e in evaluated]), kind="mergesort")
    matched, ignored = (np.concatenate([e[i][:, :most] for e in evaluated], 1)[:, order] for i in (1, 2))
    precision, recall = np.zeros((10, 101)), np.zeros(10)
    hits, misses = (matched != 0) & ~ignored, (matched == 0) & ~ignored
    for t, (tp, fp) in enumerate(zip(hits.cumsum(1).astype(float), misses.cumsum(1).astype(float))):
        at, exact = tp / count, (tp / (tp + fp + np.spacing(1))).tolist()
        recall[t] = at[-1] if len(at) else 0
        for i in range(len(exact) - 1, 0, -1):
            exact[i - 1] = max(exact[i - 1], exact[i])
        for r, i in enumerate(np.searchsorted(at, np.linspace(0, 1, 101), side="left")):
            if i < len(exact):
                precision[t, r] = exact[i]
    return precision, recall


def summary(cells: dict) -> dict[str, float]:
    def mean(key: tuple[str, int], part: int, rows: slice = slice(None)) -> float:
        return float(np.mean([cell[part][rows] for cell in cells[key]])) if cells[key] else -1.0

    ap = {f"AP{name}": mean((name, 100), 0) for name in AREAS}
    ar = {f"AR{most}": mean(("", most), 1) for most in (1, 10, 100)}
    at = {"AP50": mean(("", 100), 0, slice(0, 1)), "AP75": mean(("", 100), 0, slice(5, 6))}
    return ap | at | ar | {f"AR{name}": mean((name, 100), 1) for name in ("s", "m", "l")}


# The race ------------------------------------------------------------------------------------------------------------


def timed(run: Callable[[], dict]) -> tuple[float, float, dict]:
    """Seconds on the clock, seconds of all processors, result."""
    start, before = time.perf_counter(), sum(os.times()[:4])
    out = run()
    return time.perf_counter() - start, sum(os.times()[:4]) - before, out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--predictions", type=int, default=17, help="per video")
    parser.add_argument("--size", type=int, nargs=2, default=(360, 640), help="height and width")
    parser.add_argument("--categories", type=int, default=40)
    parser.add_argument("--workers", type=int, help="processes of ours; by default it chooses")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder, args.videos, args.frames, args.predictions, tuple(args.size), args.categories)
        gt, pred = folder / "truth.json", folder / "results.json"
        print(f"truth {gt.stat().st_size / 1e6:.0f} MB, results {pred.stat().st_size / 1e6:.0f} MB")
        ours, theirs = [], []
        for _ in range(args.repeats):
            *seconds, numbers = timed(lambda: score_vis(gt, pred, workers=args.workers).to_json())
            *plain_seconds, expected = timed(lambda: plain(gt, pred))
            ours.append(seconds)
            theirs.append(plain_seconds)
            print(
                "ours {:.2f} s ({:.2f} of processors),".format(*seconds),
                "plain {:.2f} s ({:.2f})".format(*plain_seconds),
            )
        worst = max(abs(numbers[key] - value) for key, value in expected.items())
        ratio, per_core = np.median(theirs, 0) / np.median(ours, 0)
        print(f"ratio of the medians {ratio:.1f}, per processor {per_core:.1f}; largest difference {worst:.1e}")
        for label, run in (("ours", lambda: score_vis(gt, pred, workers=1)), ("plain", lambda: plain(gt, pred))):
            tracemalloc.start()
            run()
            print(f"peak memory of {label}, in Python: {tracemalloc.get_traced_memory()[1] / 2**20:.0f} MiB")
            tracemalloc.stop()


if __name__ == "__main__":
    main()

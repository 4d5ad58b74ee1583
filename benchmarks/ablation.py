"""The ablation of SyncVIS (tables 4 and 5 and figure 3 of the paper) on labelled shapes: 25 short trainings, one table.

python benchmarks/ablation.py --jobs 2                # trains what is missing; the same command again goes on
python benchmarks/ablation.py --jobs 2 --minutes 60   # in pieces
python benchmarks/ablation.py --table                 # only the table and the pictures of what is there

As in the paper, all models start from one Mask2Former that has learned single images (`mask2former-tiny-shapes`), and
are then trained on clips (`syncvis-tiny-shapes`): the same clips in the same order for one seed, for the same number
of steps. All are scored on the same 100 held-out videos, each seen as a whole. Every training is one process with one
thread.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

FRAMES, VIDEOS, LONG = 5, 100, 10  # T of the tables; held-out videos and their frames
PLAIN: dict[str, Any] = {"model": "mask2former-vis-tiny", "subclip": None}
OPTIMISED: dict[str, Any] = {"model": "mask2former-vis-tiny"}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("Mask2Former-VIS", PLAIN),
    "modelling": ("+ synchronized modelling", {"subclip": None}),
    "optimisation": ("+ synchronized optimisation", OPTIMISED),
    "both": ("+ both: SyncVIS", {}),
    "frame_to_video": ("SyncVIS, frame -> video only", {"direction": "frame_to_video"}),
    "video_to_frame": ("SyncVIS, video -> frame only", {"direction": "video_to_frame"}),
}
LENGTHS = (2, 3, 5, 8)
START, WEIGHTS, RESULT = "start", "weights.safetensors", "result.json"


@dataclass(frozen=True)
class Job:
    """One training: a variant, a seed and a number of frames."""

    variant: str
    seed: int = 0
    frames: int = FRAMES

    @property
    def name(self) -> str:
        """Of the run's folder."""
        return f"{self.variant}-T{self.frames}-{self.seed}"


def jobs() -> list[Job]:
    """All trainings after the start, seed by seed, so that what is there early is a table already."""
    tables = [[Job(variant, seed) for variant in VARIANTS] for seed in range(3)]
    lengths = [Job(variant, 0, frames) for frames in LENGTHS if frames != FRAMES for variant in ("plain", "both")]
    return tables[0] + lengths + tables[1] + tables[2]


def recipe_of(name: str, out: Path) -> Any:
    """The recipe of one job, or of the start."""
    from tubelet.recipes.vis import RECIPES

    if name == START:
        recipe = RECIPES["mask2former-tiny-shapes"]
    else:
        job = next(job for job in jobs() if job.name == name)
        changes = {"frames": job.frames, "seed": job.seed, **VARIANTS[job.variant][1]}
        recipe = replace(RECIPES["syncvis-tiny-shapes"], weights=out / START / WEIGHTS, **changes)
    quiet = replace(recipe.validation, every=0)
    return replace(recipe, validation=quiet, run=replace(recipe.run, out=out, workers=0))


def perform(name: str, out: Path, minutes: float | None) -> None:
    """Trains, or goes on with, one job in this process; once it is trained, scores it into OUT/NAME/result.json."""
    import torch

    from tubelet.data.shapes import held_out
    from tubelet.recipes.vis import build, run, score_videos
    from tubelet.train.log import read_log

    torch.set_num_threads(1)
    recipe = recipe_of(name, out)
    folder = run(name, replace(recipe, run=replace(recipe.run, minutes=minutes)))
    log = read_log(folder / "log.jsonl")
    if log[-1]["step"] < recipe.steps:
        return
    model = build(replace(recipe, weights=folder / WEIGHTS)).eval()
    numbers = score_videos(model, *held_out(VIDEOS, frames=LONG, **options_of(out)))
    pace = statistics.median(entry["rate"] for entry in log)
    kept = {key: round(numbers[key], 4) for key in ("AP", "AP50", "AP75", "AR1", "AR10")}
    result = {**kept, "steps": recipe.steps, "clips": recipe.batch, "steps per second": round(pace, 2)}
    (folder / RESULT).write_text(json.dumps(result))


def options_of(out: Path) -> dict[str, Any]:
    """How the videos are made that all are scored on."""
    return recipe_of(jobs()[0].name, out).data.shapes_options()


def in_a_process(name: str, out: Path, until: float) -> None:
    """One job in a process of its own with one thread, to stop at the time `until`; its output goes to a file."""
    left = (until - time.monotonic()) / 60
    if left < 1 or (out / name / RESULT).is_file():
        return
    command = [sys.executable, __file__, "--out", str(out), "--only", name]
    if math.isfinite(left):
        command += ["--minutes", str(left)]
    (out / name).mkdir(parents=True, exist_ok=True)
    with (out / name / "output.txt").open("a") as file:
        subprocess.run(command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    print(name, result_of(name, out) or "to be continued", flush=True)


def result_of(name: str, out: Path) -> dict[str, float]:
    path = out / name / RESULT
    return json.loads(path.read_text()) if path.is_file() else {}


def table(out: Path) -> str:
    """Markdown: the variants over their seeds, then AP against the number of training frames."""

    def aps(variant: str, frames: int = FRAMES, key: str = "AP") -> list[float]:
        found = [result_of(job.name, out) for job in jobs() if (job.variant, job.frames) == (variant, frames)]
        return [100 * result[key] for result in found if result]

    lines = ["| | AP | spread | AP of each seed | AP50 | AP75 |", "|---|---|---|---|---|---|"]
    for variant, (title, _) in VARIANTS.items():
        values = aps(variant)
        means = [f"{statistics.mean(aps(variant, key=key)):.1f}" if values else "" for key in ("AP", "AP50", "AP75")]
        spread = f"{statistics.stdev(values):.1f}" if len(values) > 1 else ""
        each = ", ".join(f"{value:.1f}" for value in values)
        lines.append(f"| {title} | {means[0]} | {spread} | {each} | {means[1]} | {means[2]} |")
    lines += ["", "| AP of one seed, by training frames | " + " | ".join(f"T = {t}" for t in LENGTHS) + " |"]
    lines += ["|---" * (len(LENGTHS) + 1) + "|"]
    for variant in ("plain", "both"):
        cells = [f"{aps(variant, t)[0]:.1f}" if aps(variant, t) else "" for t in LENGTHS]
        lines.append(f"| {VARIANTS[variant][0]} | " + " | ".join(cells) + " |")
    start = result_of(START, out)
    lines += ["", f"The common start, which has seen single images only: AP {100 * start['AP']:.1f}."] if start else []
    return "\n".join(lines)


def draw(out: Path, path: Path, videos: int = 6, show: float = 0.3) -> None:
    """Held-out videos, a row each for the truth and for the first seed of two variants that are trained."""
    import cv2
    import numpy as np

    from tubelet.data.shapes import CLASSES, held_out
    from tubelet.recipes.vis import build
    from tubelet.run import draw_tracks, watch
    from tubelet.types import Frame, Track, TrackFrame, decode_rle, encode_rle
    from tubelet.viz.draw import contact_sheet

    made, truth = held_out(videos, frames=LONG, **options_of(out))
    pictures, titles, shown = [], [], range(0, LONG, 3)

    def add(rgb: np.ndarray, result: TrackFrame, title: str) -> None:
        # enlarged before it is drawn on, so that the labels do not hide it
        masks = {i: encode_rle(decode_rle(rle).repeat(3, 0).repeat(3, 1)) for i, rle in result.masks.items()}
        large = rgb.repeat(3, 0).repeat(3, 1)
        result = replace(result, size=large.shape[:2], masks=masks)
        pictures.append(draw_tracks(large, result, CLASSES, show=show))
        titles.append(title)

    models = [(title, build(replace(r, weights=out / n / WEIGHTS)).eval()) for n, title, r in trained(out)]
    for i, rgb in enumerate(made):
        own = [x for x in truth["annotations"] if x["video_id"] == i + 1]
        for t in shown:
            masks = {x["id"]: x["segmentations"][t] for x in own if x["segmentations"][t] is not None}
            tracks = tuple(Track(x["id"], x["category_id"] - 1, 1.0) for x in own if x["id"] in masks)
            add(rgb[t], TrackFrame(t, rgb.shape[1:3], masks, tracks), f"truth, frame {t}")
        for title, model in models:
            results = [
                x
                for _, x in watch(
                    (Frame(x, t) for t, x in enumerate(rgb)), model.session(short_edge=min(rgb.shape[1:3]))
                )
            ]
            for t in shown:
                add(rgb[t], results[t], f"{title}, frame {t}")
    sheet = contact_sheet(pictures, columns=len(shown), titles=titles, width=1200)
    cv2.imwrite(str(path), sheet[:, :, ::-1])


def trained(out: Path) -> list[tuple[str, str, Any]]:
    """The first seeds of Mask2Former-VIS and of SyncVIS, if they are trained: name, title, recipe."""
    found = [job for job in (Job("plain"), Job("both")) if result_of(job.name, out)]
    return [(job.name, VARIANTS[job.variant][0], recipe_of(job.name, out)) for job in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--minutes", type=float, default=math.inf, help="save and stop after so many")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--only", help="train this one, in this process")
    args = parser.parse_args()
    if args.only:
        perform(args.only, args.out, args.minutes if math.isfinite(args.minutes) else None)
        return
    if not args.table:
        until = time.monotonic() + 60 * args.minutes
        in_a_process(START, args.out, until)
        if result_of(START, args.out):
            with ThreadPoolExecutor(args.jobs) as pool:
                list(pool.map(lambda job: in_a_process(job.name, args.out, until), jobs()))
    print(table(args.out))
    if trained(args.out):
        draw(args.out, args.out / "pictures.png")


if __name__ == "__main__":
    main()

"""Carrying masks between key frames on CamVid (MPVSS, Table 3a and figure 3): accuracy and time of each way to do it.

python benchmarks/camvid.py --data CamVid --weights runs/mpvss-camvid/weights.safetensors
python benchmarks/camvid.py ... --flownet runs/mpvss-camvid-flownet/weights.safetensors    # trained optical flow too

The 101 validation frames are consecutive (15 a second). The segmentor is the same in all rows but those of a trained
flow, whose heads were trained with it.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from tubelet.data.camvid import read_camvid
from tubelet.data.semantic_classes import CAMVID, palette
from tubelet.metrics.semantic import SemanticScore, score_camvid
from tubelet.models.mpvss import MPVSS
from tubelet.run import label_item
from tubelet.viz.draw import class_overlay, contact_sheet
from tubelet.weights import load

INTERVALS = (2, 5, 10)
SHOWN = 4  # frames of the strip


@dataclass(frozen=True)
class Row:
    """One way at one interval."""

    title: str
    interval: int
    keys: int
    """Key frames."""
    score: SemanticScore
    seconds: float
    """Per frame."""
    maps: list[np.ndarray]
    """Of the frames that the strip shows."""


def measure(title: str, model: MPVSS, root: Path, shown: list[str], **options: Any) -> Row:
    """Predicts the validation frames and scores them."""
    videos = read_camvid(root, "val")
    with tempfile.TemporaryDirectory() as folder:
        seconds, frames, keys = 0.0, 0, 0
        for video in videos:
            session = model.session(short_edge=360, long_edge=480, **options)
            summary = label_item(video, session, Path(folder), palette("camvid"))
            seconds, frames, keys = seconds + summary.model_seconds, frames + summary.frames, keys + session.keys
        score = score_camvid(next(iter(videos[0].labels.values())).parent, folder)
        maps = [np.asarray(Image.open(Path(folder) / f"{name}.png")) for name in shown]
    row = Row(title, options["interval"], keys, score, seconds / frames, maps)
    print(line(row), flush=True)
    return row


def line(row: Row) -> str:
    """Of the table."""
    numbers = [row.score.miou, row.score.weighted_iou, row.score.consistency["VC8"].mean]
    cells = [f"{100 * (number or 0):.1f}" for number in numbers]
    return f"| {row.interval} | {row.title} | {row.keys} | {' | '.join(cells)} | {1000 * row.seconds:.0f} |"


def strip(rows: list[Row], root: Path, shown: list[str], path: Path) -> None:
    """Frames, truth, and each way at one interval, side by side."""
    (video, *_) = read_camvid(root, "val")
    indices = [video.frame_names.index(name) for name in shown]
    colours = palette("camvid")
    pictures, titles = [video.rgb(i) for i in indices], [f"frame {name}" for name in shown]

    def add(maps: list[np.ndarray], title: str) -> None:
        for i, classes in zip(indices, maps, strict=True):
            pictures.append(class_overlay(video.rgb(i), classes, CAMVID, colours, legend=0))
            titles.append(title)

    add([video.classes(i) for i in indices], "truth")
    for row in rows:
        add(row.maps, f"{row.title}, interval {row.interval}")
    cv2.imwrite(str(path), contact_sheet(pictures, columns=len(shown), titles=titles, width=1400)[:, :, ::-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CamVid, with val.txt")
    parser.add_argument("--model", default="mpvss-tiny")
    parser.add_argument("--weights", type=Path, required=True, help="a trained MPVSS")
    parser.add_argument("--segmentor", type=Path, help="the per-frame model it began with; by default the same file")
    parser.add_argument("--flownet", type=Path, help="likewise trained, with --motion flownet")
    parser.add_argument("--doubt", type=float, nargs="*", default=(), help="also key frames when needed, 0..1")
    parser.add_argument("--strip", type=Path, help="write the pictures here")
    parser.add_argument("--intervals", type=int, nargs="+", default=INTERVALS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    full = load(args.model, args.weights)
    segmentor = load(args.model, args.segmentor or args.weights)
    ways: list[tuple[str, MPVSS, dict[str, Any]]] = [
        ("copy", segmentor, {"carry": "copy"}),
        ("DIS flow", segmentor, {"carry": "dis"}),
    ]
    if args.flownet:
        ways.append(("FlowNetS", load(args.model, args.flownet), {}))
    ways.append(("MPVSS", full, {}))
    ways += [(f"MPVSS, doubt {doubt:g}", full, {"doubt": doubt}) for doubt in args.doubt]
    names = read_camvid(args.data, "val")[0].frame_names
    # the last frames before a key frame at interval 5 and 10, where errors are largest
    shown = [names[i] for i in range(9, len(names), max(10, len(names) // SHOWN // 10 * 10))][:SHOWN]
    print("| interval | way | key frames | mIoU | weighted IoU | VC8 | ms a frame |\n|---|---|---|---|---|---|---|")
    rows = [measure("per frame", segmentor, args.data, shown, interval=1)]
    for interval in args.intervals:
        rows += [
            measure(title, model, args.data, shown, interval=interval, **options) for title, model, options in ways
        ]
    if args.strip:
        strip([row for row in rows if row.interval in (1, max(args.intervals))], args.data, shown, args.strip)


if __name__ == "__main__":
    main()

"""Where does a model that follows objects lose them? J by size, speed, occlusion, look-alikes and length of a clip.

python benchmarks/failures.py dis-flow aost                       # those that come with the package
python benchmarks/failures.py aost@1 aost@3 --out docs/failures   # AOST at depth 1 and at depth 3
python benchmarks/failures.py dis-flow aost=runs/mine/weights.safetensors --photos PICTURES

A model is NAME, NAME=WEIGHTS, NAME@DEPTH or NAME@DEPTH=WEIGHTS. All follow the same made clips (`data/synthetic`, seeds
that no training draws), whose scenes tell the causes exactly, for each object in each frame (together one
object-frame). One figure per cause: mean J over bins of the cause, and failures of the first model in its worst bin,
from the worst quarter of that bin's object-frames. Tables go to the terminal, figures and bins.json to --out.

Causes occur together: what is half hidden also shows less. So each curve is drawn twice: solid over all object-frames,
dashed over those whose other four causes are benign in that frame (`Cause.benign`). What was lost earlier, maybe for
another cause, stays in both: J tells that an object is lost now, not when that happened. Object-frames of one object
are much alike, so the number of objects says how far to trust a bin; bins of fewer than five objects are not drawn.
Frame 0, which is given, does not count, nor do objects that are hidden or outside the frame. The pictures are failures
in a bin, which need not come from that cause alone."""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure

from tubelet.data.photos import NO_PHOTOS, Photos, read_photos
from tubelet.data.scene import Scene, Thing, arrange, film, trace
from tubelet.data.synthetic import draw_scene
from tubelet.metrics.jf import region_similarity
from tubelet.run import follow
from tubelet.types import Frame, Prompt
from tubelet.viz.draw import overlay
from tubelet.viz.progress import progress
from tubelet.weights import load

SEED, PACE, OBJECTS = 7919, 1.5, (1, 4)
FEWEST = 5  # objects in a bin that is drawn
SHOWN, WIDTH = 3, 480  # failures of a figure, pixels of each


@dataclass(frozen=True)
class Cause:
    """What may make an object hard to follow. A bin is from one of the `edges` to below the next."""

    title: str
    edges: tuple[float, ...]
    benign: tuple[float, float]
    """Likewise: object-frames outside are left out of the dashed curves of the other causes."""
    whole: bool = False
    """Its values are whole numbers."""

    def labels(self) -> list[str]:
        """Of the bins."""
        return [self._label(low, high) for low, high in pairwise(self.edges)]

    def _label(self, low: float, high: float) -> str:
        if math.isinf(high):
            return f"{low:g} or more"
        last = high - 1 if self.whole else high
        return f"{low:g}" if last == low else f"{low:g} to {last:g}"


def causes_of(frames: int) -> dict[str, Cause]:
    """The five causes, for clips of so many frames."""
    edges = np.unique(np.linspace(1, frames, 6).round()).tolist()
    return {
        "size": Cause(
            "root of the visible area, % of the frame's short side", (0, 6, 10, 15, 25, 40, math.inf), (10, math.inf)
        ),
        "speed": Cause("way since the last frame, % of the short side", (0, 0.5, 1, 2, 4, math.inf), (0, 2)),
        "occlusion": Cause("share hidden by other things, %", (0, 1, 10, 25, 50, 75, 100), (0, 10)),
        "look-alikes": Cause("other things made of the same stuff", (0, 1, 2, math.inf), (0, 1), whole=True),
        "length": Cause("frames since the masks were given", tuple(edges), (1, max(2, frames // 2)), whole=True),
    }


# ---- clips and what is hard about them


@dataclass(frozen=True)
class Made:
    """A clip: rgb (T, H, W, 3), object ids (T, H, W), and each cause for each of its n objects, (n, T)."""

    rgb: np.ndarray
    ids: np.ndarray
    causes: dict[str, np.ndarray]


def make(number: int, size: tuple[int, int], frames: int, photos: Photos) -> Made:
    """The clip `make_clip` gives for the seed [7919, number], with its causes."""
    rng = np.random.default_rng([SEED, number])
    scene = draw_scene(rng, size, int(rng.integers(OBJECTS[0], OBJECTS[1] + 1)), photos)
    times = [PACE * t for t in range(frames)]
    shots = [film(scene, t, rng) for t in times]
    rgb, ids = (np.stack(maps) for maps in zip(*shots, strict=True))
    return Made(rgb, ids, measure(scene, times))


def measure(scene: Scene, times: Sequence[float]) -> dict[str, np.ndarray]:
    """The causes of objects 1..n at each time, (n, T). Their size is 0 where they do not show.

    The speed is that of the object's centre on the frame, wherever others hide it. The occlusion is by other things,
    not by the edge of the frame."""
    unit = min(scene.size)
    things = sorted((thing for thing in scene.things if thing.label), key=lambda thing: thing.label)
    seen, alone, at = [], [], []
    for t in times:
        pieces = arrange(scene, t)
        seen.append(np.bincount(trace(pieces, scene.size).ravel(), minlength=len(things) + 1)[1:])
        single = [[piece for piece in pieces if piece.label == thing.label] for thing in things]
        alone.append([np.count_nonzero(trace(own, scene.size)) for own in single])
        at.append([(scene.view(t) @ thing.at(t))[:2] for thing in things])
    visible, whole = np.array(seen).T, np.array(alone).T
    way = np.linalg.norm(np.diff(np.array(at), axis=0, prepend=[at[0]]), axis=2).T
    alike = [sum(same_stuff(thing, other) for other in scene.things) - 1 for thing in things]
    return {
        "size": 100 * np.sqrt(visible) / unit,
        "speed": 100 * way / unit,
        "occlusion": 100 * (1 - visible / np.maximum(whole, 1)),
        "look-alikes": np.tile(np.array(alike)[:, None], len(times)),
        "length": np.tile(np.arange(len(times)), (len(things), 1)),
    }


def same_stuff(one: Thing, other: Thing) -> bool:
    """Whether one's trunk is cut from the picture of the other's, or from its mirror image, as `look_alike` does."""
    rgb, like = one.parts[-1].rgb, other.parts[-1].rgb
    return np.array_equal(rgb, like) or np.array_equal(rgb, like[::-1])


# ---- how the models do on them


def open_model(text: str, device: str) -> tuple[str, Any, dict[str, Any]]:
    """NAME[@DEPTH][=WEIGHTS] -> a title, the model, and the options of its sessions."""
    head, _, file = text.partition("=")
    name, _, depth = head.partition("@")
    path = Path(file)
    run = path.parent.name if path.stem == "weights" else path.stem
    title = f"{head} ({run})" if file else head
    return title, load(name, file or None, device=device), {"depth": int(depth)} if depth else {}


def follow_clip(model: Any, options: dict[str, Any], clip: Made) -> np.ndarray:
    """The object ids found, (T, H, W)."""
    frames = (Frame(rgb, t) for t, rgb in enumerate(clip.rgb))
    results = follow(frames, model.session(**options), {0: Prompt(clip.ids[0])})
    found = {frame.index: result.labels for frame, result in results}
    return np.stack([found[t] for t in range(len(clip.rgb))])


def j_of(clip: Made, found: np.ndarray) -> np.ndarray:
    """J of each object in each frame, (n, T)."""
    objects = range(1, len(clip.causes["size"]) + 1)
    pairs = list(zip(clip.ids, found, strict=True))
    return np.array([[region_similarity(truth == i, got == i) for truth, got in pairs] for i in objects])


# ---- bins


def sort_in(causes: dict[str, Cause], values: dict[str, np.ndarray]) -> dict[str, tuple[list, np.ndarray]]:
    """For each cause: its bins as maps of object-frames (N, T), and those whose other causes are benign."""
    counted = values["size"] > 0
    counted[:, 0] = False
    benign = {name: within(values[name], *cause.benign) for name, cause in causes.items()}
    return {
        name: (
            [counted & within(values[name], low, high) for low, high in pairwise(cause.edges)],
            np.logical_and.reduce([benign[other] for other in causes if other != name]),
        )
        for name, cause in causes.items()
    }


def within(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (values >= low) & (values < high)


def tally(chosen: np.ndarray, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """Of the chosen object-frames: their number, of how many objects they are, and each model's mean J."""
    mean = {title: round(float(j[chosen].mean()), 4) if chosen.any() else None for title, j in scores.items()}
    return {"object_frames": int(chosen.sum()), "objects": int(chosen.any(1).sum()), "J": mean}


def table(cause: Cause, bins: list[dict], titles: Sequence[str]) -> str:
    """Markdown."""
    group = ["object-frames", "objects", *titles]
    head = [cause.title, *group, *(f"{title}, others benign" for title in group)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for label, entry in zip(cause.labels(), bins, strict=True):
        cells = [label]
        for part in (entry["all"], entry["others benign"]):
            means = ["" if mean is None else f"{mean:.3f}" for mean in part["J"].values()]
            cells += [f"{part['object_frames']:,}", str(part["objects"]), *means]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# ---- figures


def typical(bins: list[np.ndarray], j: np.ndarray, clip_of: Sequence[int]) -> tuple[int, list[tuple[int, int]]]:
    """The worst bin, and (row, frame) of failures spread over the worst quarter of it, no two of one clip; from beyond
    that quarter where it has too few clips."""
    drawn = [k for k, chosen in enumerate(bins) if chosen.any(1).sum() >= FEWEST]
    filled = drawn or [k for k, chosen in enumerate(bins) if chosen.any()]
    worst = min(filled, key=lambda k: j[bins[k]].mean())
    order = np.argwhere(bins[worst])[np.argsort(j[bins[worst]], kind="stable")].tolist()
    found: dict[int, tuple[int, int]] = {}
    for k in range(SHOWN):
        rest = [(row, t) for row, t in order[k * len(order) // 4 // SHOWN :] if clip_of[row] not in found]
        found |= {clip_of[row]: (row, t) for row, t in rest[:1]}
    return worst, list(found.values())


def draw(
    path: Path, name: str, cause: Cause, bins: list[dict], worst: int, failures: list[tuple[str, list[np.ndarray]]]
) -> None:
    """The curve of one cause above pictures of failures: a title, the truth and what was found."""
    figure = Figure(figsize=(10, 8.4), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.05))[:, 0]
    draw_curves(above.subplots(), name, cause, bins)
    first = next(iter(bins[0]["all"]["J"]))
    below.suptitle(f"failures of {first} at “{cause.labels()[worst]}”; white: the true outline", fontsize=10)
    axes = below.subplots(2, SHOWN, squeeze=False)
    for ax in axes.ravel():
        ax.set(xticks=[], yticks=[], frame_on=False)
    for column, (title, pictures) in enumerate(failures):
        axes[0, column].set_title(title, fontsize=9)
        for ax, picture in zip(axes[:, column], pictures, strict=True):
            ax.imshow(picture)
    axes[0, 0].set_ylabel("truth")
    axes[1, 0].set_ylabel("found")
    figure.savefig(path, dpi=110, format="jpeg", pil_kwargs={"quality": 88})


def draw_curves(ax: Any, name: str, cause: Cause, bins: list[dict]) -> None:
    """Mean J over the bins, which lie side by side whatever their width."""
    for k, title in enumerate(bins[0]["all"]["J"]):
        for part, style in (("all", "o-"), ("others benign", "o--")):
            j = [entry[part]["J"][title] if entry[part]["objects"] >= FEWEST else np.nan for entry in bins]
            label = title if part == "all" else f"{title}, others benign"
            if not np.isnan(j).all():
                ax.plot(j, style, color=f"C{k}", alpha=1 if part == "all" else 0.55, label=label)
    numbers = [[entry[part] for entry in bins] for part in ("all", "others benign")]
    counts = [[f"{one['object_frames']:,} / {one['objects']}" for one in part] for part in numbers]
    labels = ["\n".join(texts) for texts in zip(cause.labels(), *counts, strict=True)]
    ax.set_xticks(range(len(bins)), labels, fontsize=9)
    ax.set(ylim=(0, 1), ylabel="mean J", xlim=(-0.5, len(bins) - 0.5))
    ax.set_xlabel(f"{cause.title}\nbelow it: object-frames / objects, and those with the other causes benign")
    ax.set_title(f"J by {name}")
    ax.grid(alpha=0.3)
    if ax.lines:
        ax.legend(fontsize=9)


def picture(rgb: np.ndarray, labels: np.ndarray, outline: np.ndarray, part: tuple[slice, slice]) -> np.ndarray:
    """A part of a frame, enlarged, with all objects in their colours and the outline of a true one in white."""
    height = round(WIDTH * rgb[part].shape[0] / rgb[part].shape[1])
    large = cv2.resize(rgb[part], (WIDTH, height), interpolation=cv2.INTER_CUBIC)
    ids, mask = (
        cv2.resize(np.ascontiguousarray(m[part], np.uint8), (WIDTH, height), interpolation=cv2.INTER_NEAREST)
        for m in (labels, outline)
    )
    drawn = overlay(large, ids, contour=False)
    lines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, lines, -1, (255, 255, 255), 2, cv2.LINE_AA)
    return drawn


def around(mask: np.ndarray) -> tuple[slice, slice]:
    """The part of a frame that shows a mask with some margin: of the frame's proportions, at least a third of it."""
    h, w = mask.shape
    x, y, wide, high = cv2.boundingRect(mask.astype(np.uint8))
    share = min(1, max(1 / 3, 1.4 * wide / w, 1.4 * high / h))
    height, width = round(share * h), round(share * w)
    top = min(max(0, y + high // 2 - height // 2), h - height)
    left = min(max(0, x + wide // 2 - width // 2), w - width)
    return slice(top, top + height), slice(left, left + width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="NAME, NAME=WEIGHTS, NAME@DEPTH or NAME@DEPTH=WEIGHTS")
    parser.add_argument("--out", type=Path, default=Path("runs/failures"))
    parser.add_argument("--clips", type=int, default=48, help="each holds 10 MB of memory")
    parser.add_argument("--frames", type=int, default=40, help="of a clip")
    parser.add_argument("--size", nargs=2, type=int, default=[171, 304], metavar=("H", "W"))
    parser.add_argument("--photos", type=Path, help="folder of pictures for the scenes")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if args.clips < 1 or args.frames < 2:
        parser.error("this takes at least one clip, and two frames of each, since the first is not scored")
    torch.set_num_threads(1)
    models = [open_model(text, args.device) for text in args.models]
    if len({title for title, *_ in models}) < len(models):
        parser.error(f"two of the models have the same title: {', '.join(title for title, *_ in models)}")
    photos = NO_PHOTOS if args.photos is None else read_photos(args.photos)
    numbers = range(args.clips)
    clips = [make(i, tuple(args.size), args.frames, photos) for i in progress(numbers, description="filming")]
    shown = [follow_clip(*models[0][1:], clip) for clip in progress(clips, description=models[0][0])]
    scores = {models[0][0]: np.concatenate([j_of(*pair) for pair in zip(clips, shown, strict=True)])}
    for title, model, options in models[1:]:
        each = [j_of(clip, follow_clip(model, options, clip)) for clip in progress(clips, description=title)]
        scores[title] = np.concatenate(each)
    report(args.out, causes_of(args.frames), clips, shown, scores)


def report(
    out: Path, causes: dict[str, Cause], clips: list[Made], shown: list[np.ndarray], scores: dict[str, np.ndarray]
) -> None:
    """Tables, figures and bins.json; `shown` is what the first model found, `scores` have J (N, T) of every model."""
    out.mkdir(parents=True, exist_ok=True)
    values = {name: np.concatenate([clip.causes[name] for clip in clips]) for name in causes}
    objects = [(i, k) for i, clip in enumerate(clips) for k in range(1, len(clip.causes["size"]) + 1)]
    j, kept = next(iter(scores.values())), {}
    for name, (bins, benign) in sort_in(causes, values).items():
        cause = causes[name]
        entries = [{"all": tally(chosen, scores), "others benign": tally(chosen & benign, scores)} for chosen in bins]
        print(f"\n{table(cause, entries, list(scores))}", flush=True)
        kept[name] = [{"bin": label, **entry} for label, entry in zip(cause.labels(), entries, strict=True)]
        worst, rows = typical(bins, j, [i for i, _ in objects])
        failures = []
        for row, t in rows:
            (i, k), clip = objects[row], clips[objects[row][0]]
            truth, found = clip.ids[t], shown[i][t]
            part = around((truth == k) | (found == k))
            pair = [picture(clip.rgb[t], labels, truth == k, part) for labels in (truth, found)]
            failures.append((f"clip {i}, object {k}, frame {t}: J {j[row, t]:.2f}", pair))
        draw(out / f"{name}.jpg", name, cause, entries, worst, failures)
    (out / "bins.json").write_text(json.dumps({"clips": len(clips), "causes": kept}, indent=1))


if __name__ == "__main__":
    main()

"""Clips of shapes with classes, made from nothing: small truth for video instance segmentation.

Discs, squares, triangles, stars and rings, of any stuff and colour, so that only the outline tells the class. They
move, turn, hide each other, come into the frame and leave it; some are twins, of the same class and the same stuff,
which only their motion tells apart. Bars, crosses and crescents, still or moving, hide them and have no label.

Camera, light, surfaces and motion are those of `synthetic`; here all sizes grow with the short side of the frame,
`unit`, too."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from tubelet.data.scene import Part, Scene, Thing, Wave, arrange, film, rotation, trace
from tubelet.data.synthetic import MAX_OBJECTS, MAX_PACE, draw_stage, draw_wave, shade
from tubelet.data.texture import Surface, draw_palette, draw_texture
from tubelet.types import encode_rle

CALM = 0.85
TWIN = 0.35  # how often an object after the first is the twin of an earlier one
MIN_SHOWN = 0.5  # the share of an object that shows in its best frame
MAX_TRIES = 200

# What `make_tubes` gives. The axes are not bound here, since the clips of one list have different ones.
Tubes = tuple[UInt8[np.ndarray, "_T _H _W 3"], Bool[np.ndarray, "_N _T _H _W"], Int64[np.ndarray, " _N"]]
Contours = list[Float[np.ndarray, "_ 2"]]  # (x, y) within -1..1: the rim, then what is cut out
Path2 = tuple[Wave, Wave]  # x and y over time


def make_tubes(
    seed: int | Sequence[int],
    *,
    frames: int,
    size: tuple[int, int] = (96, 96),
    objects: tuple[int, int] = (1, 4),
    pace: float | None = None,
    calm: float = CALM,
) -> tuple[UInt8[np.ndarray, "T H W 3"], Bool[np.ndarray, "N T H W"], Int64[np.ndarray, " N"]]:
    """A clip and its truth: rgb (T, H, W, 3) uint8, masks (N, T, H, W) of what is visible of each object, all False
    where it is not, and classes (N,), indices of `CLASSES`.

    The same arguments give the same bytes. `size` is (H, W). The number of objects is drawn between the two of
    `objects` (inclusive, at most 10). Masks do not overlap. Each object shows in at least one frame, wherever there is
    room at least half of it; objects come and go. `pace` is the time between frames as in `make_clip`, 1..8, drawn if
    not given. `calm` 0..1 takes contrast from the surfaces, so that outlines stand out: at 0 they are those of
    `make_clip`, at 1 the backdrop is plain and things keep 2/5. The default is for small networks that learn from
    scratch.

    Raises `ValueError` for sizes under 16, no frames, a range of objects outside 1..10, or a calm outside 0..1."""
    low, high = objects
    if frames < 1 or min(size) < 16 or not 1 <= low <= high <= MAX_OBJECTS or not 0 <= calm <= 1:
        raise ValueError(
            f"a clip of shapes needs frames >= 1, a size of at least 16x16, 1 <= objects <= 10 and 0 <= calm <= 1; "
            f"got frames={frames}, size={size[0]}x{size[1]}, objects={low}..{high}, calm={calm}"
        )
    rng = np.random.default_rng(seed)
    count = int(rng.integers(low, high + 1))
    times = np.arange(frames) * (np.exp(rng.uniform(0, np.log(MAX_PACE))) if pace is None else float(pace))
    scene, classes = draw_shapes(rng, size, count, times, calm)
    shots = [film(scene, t, rng) for t in times.tolist()]
    ids = np.stack([ids for _, ids in shots])
    return np.stack([rgb for rgb, _ in shots]), ids == np.arange(1, count + 1)[:, None, None, None], classes


# ---- outlines


def _circle(radius: float = 1.0, x: float = 0.0) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return radius * np.array([np.cos(angle), np.sin(angle)]).T + [x, 0]


def _corners(radii: Sequence[float]) -> np.ndarray:
    """A closed polygon whose corners are spread evenly around the centre."""
    angle = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    return (np.array(radii) * np.array([np.cos(angle), np.sin(angle)])).T


def _box(x: float, y: float) -> np.ndarray:
    return np.array([[-x, -y], [x, -y], [x, y], [-x, y]])


def _cross(arm: float) -> np.ndarray:
    quarter = np.array([[1, -arm], [1, arm], [arm, arm]])
    return np.concatenate([quarter @ rotation(k * np.pi / 2).T for k in range(4)])


Outlines = dict[str, Callable[[np.random.Generator], Contours]]
OUTLINES: Outlines = {
    "disc": lambda rng: [_circle()],
    "square": lambda rng: [_corners([1.0] * 4)],
    "triangle": lambda rng: [_corners([1.0] * 3)],
    "star": lambda rng: [_corners([1.0, rng.uniform(0.38, 0.48)] * 5)],
    "ring": lambda rng: [_circle(), _circle(rng.uniform(0.5, 0.62))],
}
CLASSES = tuple(OUTLINES)
DECOYS: Outlines = {
    "bar": lambda rng: [_box(1.0, rng.uniform(0.12, 0.22))],
    "cross": lambda rng: [_cross(rng.uniform(0.18, 0.3))],
    "crescent": lambda rng: [_circle(), _circle(0.85, rng.uniform(0.4, 0.6))],
}


def draw_part(
    rng: np.random.Generator, diameter: float, texture: Surface, contours: Contours, calm: float = 0.0
) -> Part:
    """A shaded picture of an outline, `diameter` pixels long and somewhat less high."""
    h, w = max(6, round(diameter * rng.uniform(0.8, 1))), max(6, round(diameter))
    alpha = np.zeros((h, w), np.uint8)
    for fill, contour in zip([255, *[0] * len(contours)], contours, strict=False):
        points = [(w - 1) / 2, (h - 1) / 2] + contour * [w / 2 - 1.5, h / 2 - 1.5]
        cv2.fillPoly(alpha, [np.round(points * 16).astype(np.int32)], fill, cv2.LINE_AA, 4)
    rgb = texture.paint(h, w)
    rgb = _calmed(rgb, rgb.mean((0, 1)), 0.6 * calm)
    return Part(shade(rng, rgb, alpha), alpha, np.zeros(2), np.zeros(2), Wave(0.0))


def draw_decoy(rng: np.random.Generator, diameter: float, texture: Surface, calm: float = 0.0) -> Part:
    """Something that is of no class. Bars are long enough to hide others behind them."""
    kind = str(rng.choice(list(DECOYS)))
    return draw_part(rng, diameter * (2 if kind == "bar" else 1), texture, DECOYS[kind](rng), calm)


# ---- the scene


def draw_shapes(
    rng: np.random.Generator, size: tuple[int, int], count: int, times: Float[np.ndarray, " T"], calm: float
) -> tuple[Scene, Int64[np.ndarray, " {count}"]]:
    """A random scene in which each of `count` objects shows at one of the `times`, and their classes."""
    scene = draw_stage(rng, size, draw_decoy)
    plain = draw_palette(rng)[0, rng.integers(256)]
    scene = replace(scene, backdrop=_calmed(scene.backdrop, plain, calm))
    classes, models = draw_classes(rng, count)
    for attempt in range(MAX_TRIES):
        # Where things hide each other for good, they get smaller, and less of them has to show.
        largest, share = max(0.2, 0.55 * 0.97**attempt), MIN_SHOWN * 0.97**attempt
        scene = replace(scene, things=_draw_things(rng, scene, classes, models, times, largest, calm))
        if shown(scene, count, times).min() >= share:
            return scene, classes
    raise AssertionError(f"no layout of {count} objects on {size} shows them all in {MAX_TRIES} tries")


def draw_classes(rng: np.random.Generator, count: int) -> tuple[Int64[np.ndarray, " {count}"], list[int]]:
    """The class of each object, and whose twin it is (its own number, if it is nobody's)."""
    models = [int(rng.integers(i)) if i and rng.random() < TWIN else i for i in range(count)]
    classes = rng.integers(len(CLASSES), size=count)
    for i, model in enumerate(models):
        classes[i] = classes[model]
    return classes, models


def _calmed(rgb: np.ndarray, towards: np.ndarray, share: float) -> np.ndarray:
    """The picture with less contrast, 1 - `share` of it, around the colour `towards`."""
    return cv2.addWeighted(rgb, 1 - share, np.full_like(rgb, towards), share, 0)


def shown(scene: Scene, count: int, times: Float[np.ndarray, " T"]) -> Float[np.ndarray, " {count}"]:
    """How much of each object 1..count is visible in its best frame, as a share of all of it."""
    best = np.zeros(count)
    for t in times.tolist():
        pieces = arrange(scene, t)
        seen = np.bincount(trace(pieces, scene.size).ravel(), minlength=count + 1)
        for piece in pieces:
            if piece.label:
                whole = (piece.part.alpha > 127).sum() * abs(np.linalg.det(piece.pose))
                best[piece.label - 1] = max(best[piece.label - 1], seen[piece.label] / max(whole, 1))
    return best


def _draw_things(
    rng: np.random.Generator,
    scene: Scene,
    classes: np.ndarray,
    models: Sequence[int],
    times: np.ndarray,
    largest: float,
    calm: float,
) -> tuple[Thing, ...]:
    """Objects 1..n and up to two decoys, one of three made of the same stuff as an object, in a random order of
    depth."""
    unit, textures, things = min(scene.size), [], []
    for label, (kind, model) in enumerate(zip(classes.tolist(), models, strict=True), start=1):
        diameter = unit * float(np.exp(rng.uniform(np.log(0.28), np.log(max(0.29, largest)))))
        textures.append(draw_texture(rng, unit))
        part = draw_part(rng, diameter, textures[-1], OUTLINES[CLASSES[kind]](rng), calm)
        if model != label - 1:
            part = things[model].parts[0]
        things.append(_draw_thing(rng, scene, part, label, times, things))
    for _ in range(rng.choice([0, 1, 1, 2])):
        stuff = textures[int(rng.integers(len(textures)))] if rng.random() < 1 / 3 else draw_texture(rng, unit)
        part = draw_decoy(rng, unit * rng.uniform(0.2, largest), stuff, calm)
        things.append(_draw_thing(rng, scene, part, 0, times, things))
    return tuple(things[i] for i in rng.permutation(len(things)))


def _draw_thing(
    rng: np.random.Generator, scene: Scene, part: Part, label: int, times: np.ndarray, others: Sequence[Thing]
) -> Thing:
    """The part with a motion of its own, and so little bending that its outline stays what it is."""
    length = 0.5 * max(part.alpha.shape)
    x, y = _draw_path(rng, scene, 2 * length, times, others)
    if label == 0 and rng.random() < 0.3:
        x, y = Wave(x(times[-1] / 2)), Wave(y(times[-1] / 2))  # a post that others pass behind
    most = 0.04 * length * float(rng.random() < 0.5)
    ripples = [Wave(0.0, *rng.uniform((0, 0.1, 0), (most, 0.4, 2 * np.pi)).tolist()) for _ in range(2)]
    return Thing(
        label=label,
        parts=(part,),
        x=x,
        y=y,
        turn=draw_wave(rng, rng.choice([0.2, 1, 3]), rng.choice([0.005, 0.03]), rng.uniform(0, 2 * np.pi)),
        log_scale=draw_wave(rng, 0.3, 0.012),
        log_squash=draw_wave(rng, 0.12, 0.006),
        squash_axis=float(rng.uniform(0, np.pi)),
        ripple=(ripples[0], ripples[1]),
        ripple_length=float(length * rng.uniform(1, 2)),
    )


# ---- where they go


def _draw_path(
    rng: np.random.Generator, scene: Scene, diameter: float, times: np.ndarray, others: Sequence[Thing]
) -> Path2:
    """Some roam about, some cross the rim of the frame, some meet another thing; all at a time within the clip."""
    at = float(rng.uniform(0.2, 0.8) * times[-1])
    kind = rng.choice(["roam", "cross", "meet"], p=[0.4, 0.3, 0.3])
    if kind == "cross" and times[-1] > 0:
        return _cross_rim(rng, scene, diameter, times, at)
    if kind == "meet" and others:
        angle, other = rng.uniform(0, 2 * np.pi), others[int(rng.integers(len(others)))]
        centre = np.array([other.x(at), other.y(at)]) + 0.5 * diameter * np.array([np.cos(angle), np.sin(angle)])
    else:
        centre = _look_at(scene, at) + rng.uniform(-0.42, 0.42, 2) * scene.size[::-1]
    return _roam(rng, scene, centre, at)


def _roam(rng: np.random.Generator, scene: Scene, centre: np.ndarray, at: float) -> Path2:
    """Through the `centre` at time `at`."""
    h, w = scene.size
    speed = min(h, w) * float(np.exp(rng.uniform(np.log(0.004), np.log(0.03))))
    x, y = draw_wave(rng, 0.6 * w, speed, centre[0]), draw_wave(rng, 0.35 * h, speed * rng.uniform(0.2, 1), centre[1])
    return _delayed(x, at), _delayed(y, at)


def _cross_rim(rng: np.random.Generator, scene: Scene, diameter: float, times: np.ndarray, at: float) -> Path2:
    """Half inside the frame at time `at`, on its way in or out, and so fast that it gets there within the clip."""
    axis, rim, direction = int(rng.integers(2)), rng.choice([-0.5, 0.5]), rng.choice([-1, 1])
    sides = np.array(scene.size[::-1])
    centre = _look_at(scene, at) + np.where(np.arange(2) == axis, rim, rng.uniform(-0.35, 0.35)) * sides
    step = times[1] - times[0]
    speed = min(diameter * rng.uniform(1, 2.5) / times[-1], 0.2 * min(scene.size) / step)
    straight = Wave(float(centre[axis]), float(sides[axis]), float(direction * speed / sides[axis]))
    path = list(_roam(rng, scene, centre, at))
    path[axis] = _delayed(straight, at)
    return path[0], path[1]


def _look_at(scene: Scene, t: float) -> Float[np.ndarray, "2"]:
    """The point of the world in the centre of the frame."""
    return np.array([scene.camera[0](t), scene.camera[1](t)])


def _delayed(wave: Wave, by: float) -> Wave:
    return replace(wave, phase=wave.phase - wave.rate * by)


# ---- a fixed set to score on


def held_out(
    videos: int,
    *,
    frames: int,
    size: tuple[int, int] = (96, 96),
    objects: tuple[int, int] = (1, 4),
    pace: float | None = None,
    calm: float = CALM,
    seed: int = 0,
) -> tuple[list[UInt8[np.ndarray, "T H W 3"]], dict[str, Any]]:
    """`videos` clips that no stream of training draws, and their truth as a YouTube-VIS file: video i (id i + 1).

    The set of n videos is the beginning of every larger one. Write the truth with `make_ytvis.write_ytvis` and score
    against it with `metrics.vis_ap.score_vis`, or write all of it with `write_held_out`."""
    options: dict[str, Any] = {"frames": frames, "size": size, "objects": objects, "pace": pace, "calm": calm}
    # A stream seeds its clips with one number below 2**62, which is never the same as these three.
    clips = [make_tubes([i, seed, 1], **options) for i in range(videos)]
    return [rgb for rgb, _, _ in clips], to_ytvis(clips)


def to_ytvis(clips: Iterable[Tubes]) -> dict[str, Any]:
    """The truth of clips as a YouTube-VIS file; category ids are class indices + 1, all ids count from 1."""
    from tubelet.data.make_ytvis import Content

    out = Content({name: i for i, name in enumerate(CLASSES, start=1)})
    for number, (rgb, masks, classes) in enumerate(clips, start=1):
        frames, size = rgb.shape[0], (rgb.shape[1], rgb.shape[2])
        out.add_video([f"{number:05d}/{t:05d}.png" for t in range(frames)], size)
        for kind, tube in zip(classes.tolist(), masks, strict=True):
            out.add_instance(CLASSES[kind], {t: encode_rle(mask) for t, mask in enumerate(tube) if mask.any()})
    return out.content()


def write_held_out(folder: Path | str, videos: Sequence[UInt8[np.ndarray, "T H W 3"]], truth: dict[str, Any]) -> None:
    """Writes FOLDER/JPEGImages/VIDEO/FRAME.png and, when all are there, FOLDER/instances.json."""
    from PIL import Image

    from tubelet.data.make_ytvis import write_ytvis

    folder = Path(folder)
    for rgb, video in zip(videos, truth["videos"], strict=True):
        for frame, name in zip(rgb, video["file_names"], strict=True):
            path = folder / "JPEGImages" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame).save(path)
    write_ytvis(folder / "instances.json", truth)

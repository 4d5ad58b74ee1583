"""Clips made from nothing, with exact truth: textured things that move, bend, turn and hide each other.

Here a random `scene.Scene` is drawn: a backdrop (ground and clutter, painted once on a canvas larger than the
frame), objects with one to three parts, and things without a label: look-alikes of an object, strangers,
posts that others pass behind. How a scene moves and is filmed is in `scene`, its surfaces are in `texture`.

All sizes grow with the short side of the frame, here called `unit`, so a scene looks alike at any
resolution."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import UInt8

from tubelet.data.photos import NO_PHOTOS, Photos
from tubelet.data.scene import Part, Scene, Thing, Wave, arrange, film, linear, paste, rotation, shift, trace
from tubelet.data.texture import Surface, draw_texture

MIN_VISIBLE = 0.003  # share of the squared short side that every object shows in frame 0: 110 px at 192
MAX_OBJECTS = 10
MAX_PACE = 8.0
MAX_TRIES = 200
PHOTO_SHARE = 0.67  # of the surfaces and the objects, where there are photographs

Body = tuple[Part, ...]
DrawPart = Callable[[np.random.Generator, float, Surface], Part]  # the float is a diameter in pixels


def make_clip(
    seed: int | Sequence[int],
    *,
    frames: int,
    size: tuple[int, int] = (193, 193),
    objects: tuple[int, int] = (1, 4),
    pace: float | None = None,
    max_pace: float = MAX_PACE,
    photos: Photos = NO_PHOTOS,
) -> tuple[UInt8[np.ndarray, "{frames} H W 3"], UInt8[np.ndarray, "{frames} H W"]]:
    """A clip and its truth: rgb (T, H, W, 3) and object ids (T, H, W), uint8; 0 where nothing is followed.

    The same arguments give the same bytes. `size` is (H, W). The number of objects is drawn between the two of
    `objects` (inclusive, at most 10); they are numbered 1..n in no order of depth. In frame 0 each shows at least
    0.3 % of the squared short side; later they may hide, leave and come back. `pace` is the time between frames:
    1 is a smooth video, 8 shows every eighth frame of one; if not given, drawn between 1 and `max_pace`. With `photos`
    two thirds of the surfaces and of the objects come from them.

    Raises `ValueError` for sizes under 16, no frames, a range of objects outside 1..10, or a `max_pace` under 1."""
    low, high = objects
    if frames < 1 or min(size) < 16 or not 1 <= low <= high <= MAX_OBJECTS:
        raise ValueError(
            f"a synthetic clip needs frames >= 1, a size of at least 16x16 and 1 <= objects <= 10; "
            f"got frames={frames}, size={size[0]}x{size[1]}, objects={low}..{high}"
        )
    if max_pace < 1:
        raise ValueError(f"the pace of a synthetic clip is at least 1, so max_pace cannot be {max_pace}")
    rng = np.random.default_rng(seed)
    scene = draw_scene(rng, size, int(rng.integers(low, high + 1)), photos)
    pace = float(np.exp(rng.uniform(0, np.log(max_pace)))) if pace is None else pace
    shots = [film(scene, t * pace, rng) for t in range(frames)]
    return np.stack([rgb for rgb, _ in shots]), np.stack([ids for _, ids in shots])


# ---- the scene


def draw_scene(rng: np.random.Generator, size: tuple[int, int], count: int, photos: Photos = NO_PHOTOS) -> Scene:
    """A random scene with `count` objects, each of them visible at time 0."""
    unit = min(size)
    scene = draw_stage(rng, size, photos=photos)
    for attempt in range(MAX_TRIES):
        # Where too many large things hide each other, they get smaller until all are seen.
        largest = max(0.25, 0.75 * 0.95**attempt)
        scene = replace(scene, things=_draw_things(rng, size, count, largest, photos))
        seen = np.bincount(trace(arrange(scene, 0.0), size).ravel(), minlength=count + 1)[1:]
        if seen.min() >= max(1, MIN_VISIBLE * unit**2):
            return scene
    raise AssertionError(f"no layout of {count} objects on {size} shows them all in {MAX_TRIES} tries")


def draw_stage(
    rng: np.random.Generator, size: tuple[int, int], clutter: DrawPart | None = None, photos: Photos = NO_PHOTOS
) -> Scene:
    """A scene without things: backdrop, camera, light. `clutter` draws what lies about, by default `draw_part`."""
    unit = min(size)
    return Scene(
        size=size,
        backdrop=draw_backdrop(rng, size, clutter, photos),
        things=(),
        camera=_draw_camera(rng, unit),
        light=_draw_light(rng),
        shutter=float(rng.choice([0, 0, rng.uniform(0.3, 1)])),
        shadow=float(rng.choice([0, rng.uniform(0.2, 0.6)])),
        sigma=float(rng.choice([0, 2, rng.uniform(2, 8)])),
        blur=float(rng.choice([0, 0, 0, 0, rng.uniform(0.4, 1)])) * unit / 192,
        jpeg=int(rng.choice([0, 0, int(rng.integers(25, 90))])),
    )


def draw_backdrop(
    rng: np.random.Generator, size: tuple[int, int], clutter: DrawPart | None = None, photos: Photos = NO_PHOTOS
) -> UInt8[np.ndarray, "h w 3"]:
    """The world behind the things, 1.5 times the frame: two grounds, clutter of all sizes, uneven light."""
    unit = min(size)
    h, w = (round(1.5 * side) for side in size)
    real = len(photos.pictures) > 0 and rng.random() < PHOTO_SHARE
    canvas = photos.draw_view(rng, h, w) if real else draw_surface(rng, unit, photos).paint(h, w)
    if rng.random() < (0.2 if real else 0.7):  # a photograph has ground and clutter of its own
        _paint_ground(rng, canvas, unit, photos)
    diameters = unit * np.exp(rng.uniform(np.log(0.06), np.log(0.6), int(rng.integers(3, 24))))
    for diameter in np.sort(diameters)[::-1].tolist()[: len(diameters) // 3 if real else None]:
        part = _draw_cutout(rng, diameter, photos) or (clutter or draw_part)(
            rng, diameter, draw_surface(rng, unit, photos)
        )
        pose = shift(rng.uniform((0, 0), (w, h))) @ linear(rotation(rng.uniform(0, 6))) @ part.pose(0.0)
        paste(canvas, part, pose)
    glow = rng.uniform(0.55, 1.25, (3, 4)).astype(np.float32)
    glow = cv2.resize(glow, (w, h), interpolation=cv2.INTER_CUBIC)
    return cv2.multiply(canvas, cv2.merge([glow] * 3), dtype=cv2.CV_8U)


def _paint_ground(rng: np.random.Generator, canvas: np.ndarray, unit: int, photos: Photos) -> None:
    """Covers the canvas below a wavy horizon with another texture, seen at a slant."""
    h, w = canvas.shape[:2]
    top, spread = int(h * rng.uniform(0.25, 0.75)), w * rng.uniform(0, 1)
    depth = h - top
    surface = np.array([[0, 0], [w, 0], [w, depth], [0, depth]], np.float32)
    seen_at = surface + np.array([[0, 0], [0, 0], [spread, 0], [-spread, 0]], np.float32)
    ground = draw_surface(rng, unit, photos).paint(depth, w, cv2.getPerspectiveTransform(seen_at, surface))
    horizon = 0.06 * h * np.interp(np.arange(w), np.linspace(0, w, 12), rng.random(12))
    below = np.arange(depth)[:, None] > horizon
    canvas[top:][below] = ground[below]


def _draw_camera(rng: np.random.Generator, unit: int) -> tuple[Wave, Wave, Wave, Wave]:
    """Still, slow or quick; half of the time with some turning, and with some zoom."""
    speed = float(rng.choice([0, 0.002, 0.01])) * unit
    return (
        draw_wave(rng, 0.25 * unit, speed),
        draw_wave(rng, 0.12 * unit, speed / 2),
        draw_wave(rng, 0.08, 0.003 * float(rng.random() < 0.5)),
        draw_wave(rng, 0.12, 0.004 * float(rng.random() < 0.5)),
    )


def _draw_light(rng: np.random.Generator) -> tuple[Wave, Wave, Wave]:
    """Steady, drifting or flickering."""
    speed = float(rng.choice([0, 0.01, 0.04]))
    return (
        draw_wave(rng, 0.25, speed, rng.uniform(0.8, 1.1)),
        draw_wave(rng, 0.15, speed / 2, rng.uniform(0.85, 1.15)),
        draw_wave(rng, 0.08, speed / 4, rng.normal(0, 0.04)),
    )


# ---- the things in it


def _draw_things(
    rng: np.random.Generator, size: tuple[int, int], count: int, largest: float, photos: Photos
) -> tuple[Thing, ...]:
    """Objects 1..count, look-alikes of them without a label (3 times in 5) and strangers (3 times in 4), shuffled.

    An object after the first is its look-alike once in four."""
    unit = min(size)
    bodies = [draw_body(rng, unit, largest, photos)]
    while len(bodies) < count:
        bodies.append(look_alike(rng, bodies[0]) if rng.random() < 0.25 else draw_body(rng, unit, largest, photos))
    models = rng.integers(count, size=rng.choice([0, 0, 1, 1, 2])).tolist()
    extras = [look_alike(rng, bodies[i]) for i in models]
    extras += [draw_body(rng, unit, min(0.5, largest), photos) for _ in range(rng.choice([0, 1, 1, 2]))]
    things = [_draw_thing(rng, body, size, label) for label, body in enumerate(bodies, start=1)]
    things += [_draw_thing(rng, body, size, 0) for body in extras]
    return tuple(things[i] for i in rng.permutation(len(things)))


def draw_body(rng: np.random.Generator, unit: int, largest: float, photos: Photos = NO_PHOTOS) -> Body:
    """A trunk of 0.15 to `largest` of the unit, and most often one to four more parts behind it, of other stuff.

    A rider is no horse and a shirt no trousers, but each is a part of one object: a network that sees objects of one
    stuff only learns to follow stuff, and drops heads and shoes."""
    diameter = unit * float(np.exp(rng.uniform(np.log(0.15), np.log(largest))))
    texture = draw_surface(rng, unit, photos)
    cutout = _draw_cutout(rng, diameter, photos)
    trunk = cutout or draw_part(rng, diameter, texture, second=draw_surface(rng, unit, photos))
    count = rng.choice([0, 0, 0, 1, 2] if cutout else [0, 0, 1, 1, 2, 3, 4])
    return (*(_draw_limb(rng, unit, diameter, texture, photos) for _ in range(count)), trunk)


def _draw_limb(rng: np.random.Generator, unit: int, diameter: float, texture: Surface, photos: Photos) -> Part:
    """A part hinged near the rim of a trunk of the given diameter; three times in four of other stuff than `texture`.

    Half of them are slender and swing, the others are of any shape and hardly move against the trunk."""
    stuff = texture if rng.random() < 0.25 else draw_surface(rng, unit, photos)
    slender, length = rng.random() < 0.5, diameter * rng.uniform(0.4, 0.9)
    cutout = None if slender else _draw_cutout(rng, length, photos)
    limb = cutout or draw_part(rng, length, stuff, slender=slender)
    angle = rng.uniform(0, 2 * np.pi)
    joint = 0.3 * diameter * np.array([np.cos(angle), np.sin(angle)])
    pivot = np.array([-0.33 * limb.alpha.shape[1], 0.0])
    swing = rng.uniform(0.2, 0.9) if slender else rng.uniform(0, 0.2)
    turn = Wave(angle, swing, rng.uniform(0.03, 0.2), rng.uniform(0, 2 * np.pi))
    return replace(limb, joint=joint, pivot=pivot, turn=turn)


def draw_surface(rng: np.random.Generator, unit: int, photos: Photos = NO_PHOTOS) -> Surface:
    """A procedural texture, or with `photos` most often a piece of one of them."""
    if photos.pictures and rng.random() < PHOTO_SHARE:
        return photos.draw_surface(rng, unit)
    return draw_texture(rng, unit)


def _draw_cutout(rng: np.random.Generator, diameter: float, photos: Photos) -> Part | None:
    """A cut-out, most often, if there are any."""
    wanted = photos.cutouts and rng.random() < PHOTO_SHARE
    return photos.draw_part(rng, diameter) if wanted else None


def draw_part(
    rng: np.random.Generator,
    diameter: float,
    texture: Surface,
    *,
    second: Surface | None = None,
    slender: bool = False,
) -> Part:
    """A shaded picture of a random shape, `diameter` pixels long; half of the time partly of the `second`."""
    aspect = rng.uniform(0.25, 0.5) if slender else rng.uniform(0.5, 1)
    h, w = max(6, round(diameter * aspect)), max(6, round(diameter))
    rgb, alpha = texture.paint(h, w), draw_outline(rng, h, w)
    if second is not None and rng.random() < 0.5:
        offset = rng.integers(-h // 2, h // 2), rng.integers(-w // 2, w // 2)
        patch = np.roll(draw_outline(rng, h, w), offset, (0, 1)) > 127
        rgb[patch] = second.paint(h, w)[patch]
    centre = np.zeros(2)
    return Part(shade(rng, rgb, alpha), alpha, joint=centre, pivot=centre, turn=Wave(0.0))


def look_alike(rng: np.random.Generator, body: Body) -> Body:
    """The same body in a mirror, or another outline cut from the same stuff."""
    if rng.random() < 0.5:
        return tuple(_mirrored(part) for part in body)
    return tuple(replace(part, alpha=draw_outline(rng, *part.alpha.shape)) for part in body)


def _mirrored(part: Part) -> Part:
    """Upside down, since a limb's own x axis points along it."""
    flip = np.array([1.0, -1.0])
    return replace(
        part,
        rgb=np.ascontiguousarray(part.rgb[::-1]),
        alpha=np.ascontiguousarray(part.alpha[::-1]),
        joint=part.joint * flip,
        pivot=part.pivot * flip,
        turn=replace(part.turn, middle=-part.turn.middle, swing=-part.turn.swing),
    )


def draw_outline(rng: np.random.Generator, h: int, w: int) -> UInt8[np.ndarray, "{h} {w}"]:
    """The alpha of a random closed shape as large as h x w: blob, polygon or star; one in 12 has a hole."""
    kind = rng.choice(["blob", "polygon", "star"], p=[0.65, 0.2, 0.15])
    if kind == "blob":
        angle, order = np.linspace(0, 2 * np.pi, 64, endpoint=False), np.arange(1, 7)[:, None]
        swing = rng.normal(0, rng.uniform(0.1, 0.5), (6, 1)) / order
        radius = np.exp((swing * np.cos(order * angle + rng.uniform(0, 2 * np.pi, (6, 1)))).sum(0))
    else:
        # Three corners a quarter turn apart keep the centre inside.
        corners = rng.uniform(0, 2 * np.pi, int(rng.integers(2, 8)))
        angle = np.sort(np.append(corners, corners[0] + np.pi * np.array([0.5, 1, 1.5])) % (2 * np.pi))
        radius = rng.uniform(0.45 if kind == "polygon" else 0.25, 1, len(angle))
    points = (radius * np.array([np.cos(angle), np.sin(angle)])).T
    low, high = points.min(0), points.max(0)
    points = 1.5 + (points - low) / (high - low) * [w - 4, h - 4]
    alpha = np.zeros((h, w), np.uint8)
    cv2.fillPoly(alpha, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    if rng.random() < 1 / 12:
        cv2.ellipse(alpha, (w // 2, h // 2), (w // 6, h // 6), 0, 0, 360, 0, -1, cv2.LINE_AA)
    return alpha


def shade(rng: np.random.Generator, rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The picture made to look round: it rises from the rim, is lit from one side and darker at the rim."""
    depth = cv2.distanceTransform((alpha > 127).astype(np.uint8), cv2.DIST_L2, 3)
    bulge = float(rng.uniform(0.08, 0.4)) * min(alpha.shape)
    rise = cv2.blur(1 - np.exp(-depth / bulge), (3, 3))
    slope_y, slope_x = np.gradient(rise * bulge)
    angle, strength, rim = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.9), rng.uniform(0, 0.4)
    light = 1 + strength * (np.cos(angle) * slope_x + np.sin(angle) * slope_y) - rim * (1 - rise)
    light = np.clip(light, 0.15, 1.7).astype(np.float32)
    return cv2.multiply(rgb, cv2.merge([light] * 3), dtype=cv2.CV_8U)


def draw_wave(rng: np.random.Generator, swing: float, speed: float, start: float = 0.0) -> Wave:
    """A wave that is `start` at time 0, with 0.3 to 1 of the given swing and up to `speed` change per step."""
    swing = float(swing * rng.uniform(0.3, 1))
    phase = float(rng.uniform(0, 2 * np.pi))
    return Wave(float(start - swing * np.sin(phase)), swing, float(speed / swing), phase)


def _draw_thing(rng: np.random.Generator, body: Body, size: tuple[int, int], label: int) -> Thing:
    """The body somewhere in the frame at time 0, with a motion of its own."""
    (h, w), unit = size, min(size)
    speed = unit * float(np.exp(rng.uniform(np.log(0.002), np.log(0.03))))
    if label == 0 and rng.random() < 0.3:
        speed = 0.0  # part of the world, such as a post that others pass behind
    length = 0.5 * max(body[-1].alpha.shape)
    most = 0.08 * length * float(rng.random() < 0.6)
    ripples = [Wave(0.0, *rng.uniform((0, 0.1, 0), (most, 0.4, 2 * np.pi)).tolist()) for _ in range(2)]
    return Thing(
        label=label,
        parts=body,
        x=draw_wave(rng, 0.6 * w, speed, rng.uniform(-0.42, 0.42) * w),
        y=draw_wave(rng, 0.35 * h, speed * rng.uniform(0.2, 1), rng.uniform(-0.4, 0.4) * h),
        turn=draw_wave(rng, rng.choice([0.2, 1, 3]), rng.choice([0.005, 0.03]), rng.uniform(0, 2 * np.pi)),
        log_scale=draw_wave(rng, 0.5, 0.012),
        log_squash=draw_wave(rng, 0.3, 0.012),
        squash_axis=float(rng.uniform(0, np.pi)),
        ripple=(ripples[0], ripples[1]),
        ripple_length=float(length * rng.uniform(0.5, 2)),
    )

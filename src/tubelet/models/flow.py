"""dis-flow: objects carried along optical flow and held by their colours; no training, no weights, any machine.

What is unusual about it, in the order of a frame's way (all at a small working size, long edge `long_edge`):

1. **Flow** from the new frame back to the last one (DIS, Kroeger et al., ECCV 2016), so that masks are pulled without
   holes. DIS goes down to the finest scale, without variational refinement: the smooth flow that this gives bleeds
   over outlines, and masks carried along it end up worse.
2. **Soft masks** are carried, one per object, and trusted less where the carried picture does not fit the new one.
3. **Local colours** correct what flow gets wrong. A coarse grid counts, per cell and colour, how many pixels were seen
   and how many of them belonged to each object (the bilateral grid of Maerki et al., CVPR 2016, with a palette in
   place of the colour axes). Recent counts fade and move with the flow; those of the given masks stay where they are.
4. Both are evidence for or against each object, added as log-odds (naive Bayes); the objects compete by their odds.

Nothing grows with the length of the video.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt8
from scipy import sparse
from scipy.spatial import KDTree

from tubelet.models.base import Session, check_followed, check_input, paste
from tubelet.types import Frame, LabelFrame, Prompt

Rgb = UInt8[np.ndarray, "H W 3"]
LabelMap = UInt8[np.ndarray, "H W"]
Map = Float32[np.ndarray, "h w"]  # at the working size
ColourMap = Int[np.ndarray, "h w"]  # indices into the palette
Counts = Float32[np.ndarray, "Y X P"]  # pixels per row and column of cells and colour of the palette

CELL = 10  # pixels of the working size
COLOURS = 192  # of the palette, besides a coarse cube for colours that come up later
SIMILAR = 4.0  # standard deviation within which colours count as alike, in 8-bit Lab units
FADE = 0.95  # what is left of a recent count after a frame
GIVEN = 0.6  # weight of the counts of given masks beside the recent ones
FEW = 0.1  # pixels below which a cell has no opinion on a colour
DOUBT = 30.0  # grey levels of difference at which a carried mask is trusted e times less
LEAST_TRUST = 0.3


class DisFlow:
    """The training-free baseline. It has no state: sessions may share it."""

    def session(self, *, long_edge: int = 480) -> "DisFlowSession":
        """One video on its way. `long_edge`: frames are shrunk to it (never enlarged); larger is slower and finer.

        Raises `ValueError` if `long_edge` is below 32."""
        return DisFlowSession(long_edge=long_edge)


class DisFlowSession(Session[LabelFrame]):
    """One video. Answers every frame at once."""

    def __init__(self, *, long_edge: int = 480):
        if long_edge < 32:
            raise ValueError(f"long_edge must be at least 32 pixels to see anything move, got {long_edge}")
        self.long_edge = long_edge
        self.dis = make_dis()
        self.frame_size: tuple[int, int] | None = None
        self.masks: dict[int, Map] = {}  # probability 0..1 of each object in the last frame
        self.last: View | None = None
        self.colours: LocalColours | None = None

    @property
    def objects(self) -> tuple[int, ...]:
        """The ids being followed, ascending."""
        return tuple(sorted(self.masks))

    def feed(self, frame: Frame, prompt: Prompt | None = None) -> list[LabelFrame]:
        """The labels of this frame, at once. New masks are pasted over the prediction; a mask given for an object
        that is already followed replaces what was predicted for it.

        Raises `ValueError` if the size of a frame or a mask does not fit, or an id to remove is not followed."""
        prompt = prompt or Prompt()
        self.frame_size = check_input(frame, prompt, begun=self.frame_size, objects=self.objects)
        for i in set(prompt.remove):
            self.remove(i)
        given = prompt.objects()
        if not given and not self.masks:
            self.last = self.colours = None
            return [LabelFrame(np.zeros(frame.rgb.shape[:2], np.uint8), frame.index)]
        view = look(frame.rgb, self.long_edge)
        if self.masks:
            self._propagate(view)
        before = {i: self.masks.get(i, np.zeros(view.grey.shape, np.float32)) for i in given}
        self.masks |= {i: np.zeros(view.grey.shape, np.float32) for i in given}  # so that what is beneath them shows
        labels = compose(self.masks, frame.rgb.shape[:2])
        if given:
            assert prompt.labels is not None
            self._place(prompt.labels, given)
            labels = paste(prompt.labels, labels)
        self.colours = self.colours or LocalColours(view.lab)
        said = sum((before[i] + self.masks[i] for i in given), np.zeros(view.grey.shape, np.float32))
        self.colours.remember(view.lab, self.masks, said=said)
        self.last = view
        return [LabelFrame(labels, frame.index, self.objects)]

    def finish(self) -> list[LabelFrame]:
        """Nothing is owed."""
        return []

    def remove(self, object_id: int) -> None:
        """Stops following an object. Raises `ValueError` if it is not followed."""
        check_followed(object_id, self.objects)
        del self.masks[object_id]
        if self.colours is not None:
            self.colours.forget(object_id)

    def _propagate(self, view: "View") -> None:
        """The masks of the last frame become those of this one."""
        assert self.last is not None
        assert self.colours is not None
        flow = self.dis.calc(view.grey, self.last.grey, None)  # type: ignore[call-overload]
        source = flow + pixel_grid(view.grey)
        trust = photometric_trust(view.grey, pull(self.last.grey, source))
        self.colours.move(flow)
        by_colour = self.colours.log_odds(view.lab, tuple(self.masks))
        odds = {i: np.exp(trust * logit(pull(m, source), 0.01) + by_colour[i]) for i, m in self.masks.items()}
        total = sum(odds.values(), np.ones_like(trust))
        self.masks = {i: x / total for i, x in odds.items()}

    def _place(self, labels: LabelMap, given: tuple[int, ...]) -> None:
        """Given masks over the predicted ones, at the working size."""
        height, width = self.masks[given[0]].shape
        covered = np.zeros((height, width), np.float32)
        for i in given:
            self.masks[i] = resize((labels == i).astype(np.float32), width, height)
            covered += self.masks[i]
        for i in self.masks.keys() - set(given):
            self.masks[i] = self.masks[i] * np.maximum(1 - covered, 0)


# Local colours -----------------------------------------------------------------------------------------------------


class Palette:
    """The colours of a picture, and for every colour the nearest of them."""

    def __init__(self, lab: Rgb):
        cube = np.stack(np.meshgrid(*[np.arange(32, 256, 64)] * 3), -1).reshape(-1, 3)
        self.colours = np.concatenate([k_means(lab.reshape(-1, 3), COLOURS), cube]).astype(np.float32)
        tree = KDTree(self.colours)
        pairs = tree.sparse_distance_matrix(tree, 3 * SIMILAR, output_type="ndarray")
        weight = np.exp(-(pairs["v"] ** 2) / (2 * SIMILAR**2)).astype(np.float32)
        # Sparse, not only because it is faster: the threads of a dense product stall when the machine is busy.
        self.alike = sparse.csr_array((weight, (pairs["i"], pairs["j"])))
        every = np.stack(np.meshgrid(*[np.arange(2, 256, 4)] * 3, indexing="ij"), -1).reshape(-1, 3)
        self.nearest = np.asarray(tree.query(every)[1])

    def index(self, lab: Rgb) -> ColourMap:
        """The nearest colour of the palette at every pixel (to within 4 levels)."""
        bins = lab.astype(np.int32) >> 2
        return self.nearest[(bins[..., 0] * 64 + bins[..., 1]) * 64 + bins[..., 2]]


class LocalColours:
    """How many pixels of which colour were seen where, in all (entry 0) and of each object."""

    def __init__(self, lab: Rgb):
        self.palette = Palette(lab)
        y, x = (np.arange(n, dtype=np.float32) / CELL for n in lab.shape[:2])
        self.y, self.x = y[:, None], x[None, :]
        self.rows, self.columns = int(y[-1]) + 2, int(x[-1]) + 2
        down, across = gaussian_bands(self.rows), gaussian_bands(self.columns)
        self.near = sparse.kron(down, across, format="csr")  # cells x cells
        self.cell = np.rint(self.y).astype(np.int64) * self.columns + np.rint(self.x).astype(np.int64)
        self.recent: dict[int, Counts] = {}  # fading, moved along with the flow
        self.given: dict[int, Counts] = {}  # of the given masks, where they were given

    def forget(self, object_id: int) -> None:
        """Drops an object; its pixels become background."""
        del self.recent[object_id], self.given[object_id]

    def remember(self, lab: Rgb, masks: dict[int, Map], *, said: Map) -> None:
        """Counts a frame and its masks. Where `said` is above 0 the masks were given: there memory starts afresh."""
        colours = self.palette.index(lab)
        fresh = self._cells_near(said) if self.recent else np.array(True)
        nothing = np.zeros((self.rows, self.columns, len(self.palette.colours)), np.float32)
        for i, mask in {0: np.ones(lab.shape[:2], np.float32), **masks}.items():
            counts = self._count(colours, mask)
            recent = FADE * self.recent.get(i, nothing) + (1 - FADE) * counts
            self.recent[i] = np.where(fresh, counts, recent)
            self.given[i] = np.where(fresh, counts, self.given.get(i, nothing))

    def move(self, flow: Float32[np.ndarray, "h w 2"]) -> None:
        """The recent counts, pulled along a flow that points from the new frame to the last one."""
        flow = cv2.resize(flow, (self.columns, self.rows), interpolation=cv2.INTER_AREA) / CELL
        y = np.clip(np.arange(self.rows, dtype=np.float32)[:, None] + flow[..., 1], 0, self.rows - 1.001)
        x = np.clip(np.arange(self.columns, dtype=np.float32) + flow[..., 0], 0, self.columns - 1.001)
        self.recent = {i: bilinear(counts, y, x) for i, counts in self.recent.items()}

    def log_odds(self, lab: Rgb, objects: tuple[int, ...]) -> dict[int, Map]:
        """What the colours near every pixel say for (above 0) or against each object."""
        colours = self.palette.index(lab)
        seen = self._read(0, colours)
        share = {i: (self._read(i, colours) + FEW / 2) / (seen + FEW) for i in objects}
        return {i: logit(x, 0.02) for i, x in share.items()}

    def _read(self, i: int, colours: ColourMap) -> Map:
        """Pixels of like colour in the cells around every pixel."""
        counts = self.recent[i] + GIVEN * self.given[i]
        around = self.near @ counts.reshape(-1, counts.shape[2])
        alike = (self.palette.alike @ around.T).T.reshape(counts.shape)
        return bilinear(alike, self.y, self.x, colours)

    def _count(self, colours: ColourMap, mask: Map) -> Counts:
        shape = self.rows, self.columns, len(self.palette.colours)
        bins = self.cell * shape[2] + colours
        return np.bincount(bins.ravel(), mask.ravel(), np.prod(shape)).astype(np.float32).reshape(shape)

    def _cells_near(self, where: Map) -> Shaped[np.ndarray, "Y X 1"]:
        touched = np.bincount(self.cell[where > 0], minlength=self.rows * self.columns) > 0
        touched = touched.reshape(self.rows, self.columns).astype(np.uint8)
        return cv2.dilate(touched, np.ones((5, 5), np.uint8)).astype(bool)[..., None]


def k_means(points: UInt8[np.ndarray, "n d"], k: int) -> Float32[np.ndarray, "k d"]:
    """At most k centres of a sample of the points."""
    random = np.random.default_rng(0)
    points = random.choice(points, min(len(points), 6000), replace=False).astype(np.float32)
    centres = points[:k].copy()
    for _ in range(8):
        nearest = KDTree(centres).query(points)[1]
        size = np.bincount(nearest, minlength=len(centres))[:, None]
        total = np.stack([np.bincount(nearest, x, len(centres)) for x in points.T], 1)
        centres = np.where(size > 0, total / np.maximum(size, 1), centres).astype(np.float32)
    return centres


def gaussian_bands(n: int) -> sparse.csr_array:
    """The (n, n) matrix that blurs n cells by one cell."""
    offset = np.arange(n)[:, None] - np.arange(n)
    blur = np.exp(-(offset**2) / 2) / np.sqrt(2 * np.pi)
    return sparse.csr_array(np.where(abs(offset) <= 3, blur, 0).astype(np.float32))


def bilinear(
    grid: Counts,
    y: Shaped[np.ndarray, "_ _"],
    x: Shaped[np.ndarray, "_ _"],
    colours: ColourMap | None = None,
) -> Float32[np.ndarray, "..."]:
    """The grid at rows y and columns x (at least one below the last): of all colours, or of one colour per point."""
    top, left = y.astype(np.int32), x.astype(np.int32)
    down, right = (y - top).astype(np.float32), (x - left).astype(np.float32)
    which = () if colours is None else (colours,)
    if colours is None:
        down, right = down[..., None], right[..., None]
    upper = (1 - right) * grid[(top, left, *which)] + right * grid[(top, left + 1, *which)]
    lower = (1 - right) * grid[(top + 1, left, *which)] + right * grid[(top + 1, left + 1, *which)]
    return (1 - down) * upper + down * lower


# Pictures ----------------------------------------------------------------------------------------------------------


class View(NamedTuple):
    """A frame at the working size."""

    grey: UInt8[np.ndarray, "h w"]
    lab: UInt8[np.ndarray, "h w 3"]


def look(rgb: Rgb, long_edge: int) -> View:
    """A frame, shrunk to the long edge (DIS needs 32 pixels: a side that is smaller is enlarged)."""
    height, width = rgb.shape[:2]
    scale = min(1, long_edge / max(height, width))
    small = resize(rgb, max(32, round(width * scale)), max(32, round(height * scale)))
    return View(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), cv2.cvtColor(small, cv2.COLOR_RGB2LAB))


def make_dis() -> cv2.DISOpticalFlow:
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    dis.setFinestScale(0)
    dis.setPatchStride(3)
    dis.setGradientDescentIterations(25)
    dis.setVariationalRefinementIterations(0)
    return dis


def resize(image: Shaped[np.ndarray, "..."], width: int, height: int) -> Shaped[np.ndarray, "..."]:
    """Averages when it shrinks, interpolates when it enlarges."""
    shrinks = width < image.shape[1] or height < image.shape[0]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def pixel_grid(image: Shaped[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w 2"]:
    """(x, y) of every pixel."""
    return np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in image.shape[::-1])), -1)


def pull(image: Shaped[np.ndarray, "h w"], source: Float32[np.ndarray, "h w 2"]) -> Shaped[np.ndarray, "h w"]:
    """The image at the points (x, y) of `source`; 0 outside."""
    return cv2.remap(image, source, None, cv2.INTER_LINEAR)  # type: ignore[call-overload]


def photometric_trust(now: UInt8[np.ndarray, "h w"], carried: UInt8[np.ndarray, "h w"]) -> Map:
    """1 where the carried picture looks like the new one, less where it does not."""
    difference = cv2.blur(cv2.absdiff(now, carried).astype(np.float32), (5, 5))
    return np.maximum(np.exp(-difference / DOUBT), LEAST_TRUST)


def logit(probability: Map, least: float) -> Map:
    """Log-odds of a probability that is kept `least` away from 0 and 1."""
    probability = np.clip(probability, least, 1 - least)
    return np.log(probability / (1 - probability))


def compose(masks: dict[int, Map], size: tuple[int, ...]) -> LabelMap:
    """The likeliest object, or background, at every pixel of the frame."""
    height, width = size
    labels = np.zeros((height, width), np.uint8)
    best = np.zeros((height, width), np.float32)
    background = np.ones((height, width), np.float32)
    for i, mask in masks.items():
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR)
        background -= mask
        wins = mask > best
        labels[wins], best[wins] = i, mask[wins]
    labels[best <= background] = 0
    return labels

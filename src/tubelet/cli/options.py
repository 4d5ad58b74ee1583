"""Which model a command uses: its options, and how they open the model and its sessions."""

import difflib
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

    from tubelet.models.base import Session, TrackSession
    from tubelet.types import LabelFrame

DEFAULT_MODEL = "dis-flow"
Precision = Literal["float32", "bf16", "fp16"]


@dataclass(frozen=True)
class Options:
    """Which model, and how it is opened."""

    model: str = DEFAULT_MODEL
    """A name of `tubelet list`."""
    weights: Path | None = None
    """Our safetensors or an official checkpoint (.pth, .pkl); by default what comes with the package. "random" to
    measure speed."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1 or mps."""
    precision: Precision = "float32"
    """bf16 is faster on recent CPUs and GPUs; see docs/measured.md for what it costs."""
    long_edge: int | None = None
    """Shrink frames to this many pixels for the model; masks still come out at full size."""
    depth: int | None = None
    """AOST: blocks to use, 1 to 3; fewer are faster."""
    memory: int | None = None
    """AOT family: frames to remember for the long term; 0 for no bound, as in the paper."""
    flip: bool = False
    """AOT family: also look at the mirrored video, and average."""
    scales: tuple[float, ...] = ()
    """AOT family: look at the video at these scales, and average; the paper's are 1.2 1.3 1.4."""
    short_edge: int | None = None
    """Models that find objects or label pixels: the size at which they see a frame; 360 by default (448 or 480 with
    Swin), MPVSS 480 (1024 for Cityscapes, with a long edge of 2048)."""
    window: int | None = None
    """Models that find objects: frames they see together; by default as many as fit into 2 GB."""
    overlap: int | None = None
    """Models that find objects: frames that windows share, 2 by default."""
    top: int | None = None
    """Models that find objects: the most tracks to keep; 10 by default, as for YouTube-VIS; 20 for OVIS."""
    min_score: float | None = None
    """Models that find objects: leave out tracks below this score, 0 to 1."""
    classes: str | None = None
    """What the classes of the weights are called, if they do not say: ytvis_2019, ytvis_2021, ovis or coco; vspw,
    cityscapes or camvid."""
    interval: int | None = None
    """MPVSS: every so many frames goes through the segmentor, 5 by default; 1 for each of them, as without flow."""
    carry: Literal["flow", "copy", "dis"] | None = None
    """MPVSS: how the frames between get their masks: along the model's flow, as they were, or along classical flow."""
    doubt: float | None = None
    """MPVSS: go through the segmentor when more than this share of the picture, 0 to 1, is not what the flow says (0.1
    is a start), on average still at most every INTERVAL frames; by default at fixed intervals."""
    only: tuple[str, ...] = ()
    """Models that find objects: only these classes."""

    @property
    def random(self) -> bool:
        """Whether the weights are to be random, to measure speed."""
        return str(self.weights) == "random"


Flat = Annotated[Options, tyro.conf.arg(name="")]
DEFAULTS = Options()


def open_model(options: Options) -> "tuple[Any, dict[str, Any]]":
    """A loaded model, and the keyword arguments for its sessions that were given.

    Raises `ValueError` for options that this model does not have."""
    import torch

    from tubelet.models.clips import ClipSession
    from tubelet.models.key_frames import KeyFrameSession
    from tubelet.weights import finds_objects, labels_pixels, load

    check_options(options)
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    classes = len(known_classes(options.classes)) if options.random and options.classes else None
    weights = None if options.weights is None else str(options.weights)
    loaded = load(options.model, weights, device=device, classes=classes)
    opened = KeyFrameSession if labels_pixels(options.model) else loaded.session
    return loaded, session_arguments(options, ClipSession if finds_objects(options.model) else opened)


def session_arguments(options: Options, opened: Callable) -> dict[str, Any]:
    """The options that were given, as keyword arguments of `opened`: what opens a session of the model."""
    import torch

    dtype = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[options.precision]
    memory = None if options.memory is None else (options.memory or "no bound")
    flags = {
        "--precision": ("autocast", dtype),
        "--long-edge": ("long_edge", options.long_edge),
        "--depth": ("depth", options.depth),
        "--memory": ("max_memory", memory),
        "--flip": ("flip", options.flip or None),
        "--scales": ("scales", options.scales or None),
        "--short-edge": ("short_edge", options.short_edge),
        "--window": ("window", options.window),
        "--overlap": ("overlap", options.overlap),
        "--top": ("most", options.top),
        "--min-score": ("min_score", options.min_score),
        "--only": ("categories", options.only or None),
        "--interval": ("interval", options.interval),
        "--carry": ("carry", options.carry),
        "--doubt": ("doubt", options.doubt),
    }
    given = {flag: pair for flag, pair in flags.items() if pair[1] is not None}
    known = inspect.signature(opened).parameters
    if strange := [flag for flag, (name, _) in given.items() if name not in known]:
        raise ValueError(f"{options.model} does not take {', '.join(strange)}")
    return {name: None if value == "no bound" else value for name, value in given.values()}


def check_options(options: Options) -> None:
    """Raises `ValueError` for a number without sense, before a model is loaded."""
    least_of = {"long_edge": 1, "short_edge": 1, "window": 1, "overlap": 0, "top": 1, "memory": 0, "interval": 1}
    for name, least in least_of.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be at least {least}")
    if options.min_score is not None and not 0 <= options.min_score <= 1:
        raise ValueError(f"--min-score is {options.min_score:g}; scores go from 0 to 1")


def session_maker(options: Options) -> "Callable[[], Session[LabelFrame]]":
    """Loads a model that follows objects; returns a function that opens a session of it."""
    loaded, given = open_model(options)
    return lambda: loaded.session(**given)


def open_session(options: Options) -> "Session[LabelFrame]":
    """One session of `session_maker`."""
    from tubelet.weights import check_name, knows_classes

    if knows_classes(check_name(options.model)):
        raise ValueError(f"{options.model} finds objects by itself; this needs a model that follows given ones")
    return session_maker(options)()


def finder(options: Options) -> "tuple[Callable[[], TrackSession], list[str]]":
    """Loads a model that finds objects; returns a function that opens a session of it, and the names of its classes."""
    loaded, given = open_model(options)
    count = getattr(loaded, "host", loaded).classes
    names = class_names(options, count)
    if unknown := [name for name in options.only if name not in names]:
        raise ValueError(f"there is no class {unknown[0]!r}; {nearest(unknown[0], names)}")
    if options.only:
        given["categories"] = tuple(names.index(name) for name in options.only)
    return lambda: loaded.session(**given), names


def labeller(options: Options) -> "tuple[Callable[[], Session[LabelFrame]], list[str], UInt8[np.ndarray, '256 3']]":
    """Loads a model that labels pixels; returns a function that opens a session of it, the names of its classes, and
    their colours."""
    from tubelet.data.semantic_classes import colours_of

    loaded, given = open_model(options)
    names = class_names(options, loaded.classes)
    return lambda: loaded.session(**given), names, colours_of(names)


def class_names(options: Options, count: int) -> list[str]:
    """What the classes of the weights are called: as the file or the user says, or by their number.

    Raises `ValueError` if the names asked for are not as many."""
    from tubelet.weights import read_metadata

    if options.classes is None and options.weights is not None and options.weights.suffix == ".safetensors":
        said = read_metadata(options.weights).get("classes", "").split()
        if len(said) == count:
            return said
    usual = {25: "ovis", 40: "ytvis_2021", 80: "coco", 124: "vspw", 19: "cityscapes", 11: "camvid"}
    name = options.classes or usual.get(count)
    if name is None:
        return [f"class_{i}" for i in range(1, count + 1)]
    known = known_classes(name)
    if len(known) != count:
        raise ValueError(f"the weights have {count} classes, {name} has {len(known)}")
    if options.classes is None and count == 40:
        warnings.warn("the classes are called as in YouTube-VIS 2021; for 2019 say --classes ytvis_2019", stacklevel=2)
    return known


def known_classes(dataset: str) -> list[str]:
    """The names of its classes, without spaces. Raises `ValueError` for a data set whose classes are not known."""
    from tubelet.data import semantic_classes
    from tubelet.data.classes import COCO, NAMES

    known = {**NAMES, "coco": COCO.values(), **semantic_classes.NAMES}
    if dataset not in known:
        raise ValueError(f"there are no classes called {dataset!r}; {nearest(dataset, list(known))}")
    return [name.replace(" ", "_") for name in known[dataset]]


def nearest(word: str, words: list[str]) -> str:
    near = difflib.get_close_matches(word, words, 1, 0.4)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(words)}"

"""Training the AOT family (paper, section 5).

`MODEL-pretrain` and `MODEL-main` are the paper's two stages of each variant; hardware, time and scores are the paper's
and were not reproduced by us. `aost-cpu` learns from random weights on a CPU, with settings of our own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tubelet.recipes.base import Run, Views, fit

if TYPE_CHECKING:
    import numpy as np

    from tubelet.data.dataset import VideoItem
    from tubelet.data.loader import Source
    from tubelet.models.aot.model import AOT
    from tubelet.train.worst import Worst

    Maker = Callable[[tuple[int, int], int], Source]  # clips of a size (H, W) and so many frames


@dataclass(frozen=True)
class Data:
    """Where clips come from; a source without a folder is left out."""

    synthetic: float = 0.0
    """Share of procedural clips (need no data)."""
    photos: Path | None = None
    """A folder of pictures for them: surfaces, backgrounds and, where they have an alpha channel, objects."""
    pace: float = 8.0
    """And how fast they are at most: 1 is a smooth video, 8 shows every eighth frame of one."""
    images: tuple[Path, ...] = ()
    """Stage one: folders of still images with masks, each laid out as its set was published (PASCAL VOC, COCO, ECSSD,
    MSRA10K, PASCAL-S), or with JPEGImages/NAME and Annotations/NAME of index PNGs."""
    bend: float = 0.0
    """How much still images are bent from frame to frame, as a share of their size. The paper has none of this and the
    next two; 0.04, 0.2 and 0.2 are a start."""
    blurred: float = 0.0
    """Share of their frames that are out of focus."""
    covered: float = 0.0
    """Share of their later frames in which something lies over the objects."""
    davis: Path | None = None
    """DAVIS root."""
    davis_year: int = 2017
    davis_resolution: str = "480p"
    davis_split: str = "train"
    """A file of ImageSets/YEAR, without .txt."""
    davis_share: float = 1.0
    davis_gap: int = 12
    """Frames of a DAVIS clip lie 1 to this many apart."""
    ytvos: Path | None = None
    """YouTube-VOS root."""
    ytvos_share: float = 11.6
    """3,471 videos against 60 of DAVIS repeated 5 times."""
    ytvos_gap: int = 3
    merge: float = 0.3
    """Probability of dynamic merge augmentation."""


@dataclass(frozen=True)
class Validation:
    """Videos that are followed every so often with the averaged weights: J&F into the log and `curves.png`,
    the worst frames into `worst.png`."""

    every: int = 0
    """Steps from one time to the next; 0 for never."""
    synthetic: int = 8
    """So many procedural clips, from seeds that training never draws."""
    davis_split: str | None = None
    """Also the sequences of this split of `data.davis`."""
    frames: int = 20
    """The first so many frames of each."""


@dataclass(frozen=True)
class VosRecipe:
    """One training stage of one variant."""

    model: str
    steps: int
    batch: int
    frames: int = 5
    crop: int = 465
    """16k + 1 (16k for Swin)."""
    lr: float = 2e-4
    floor_lr: float = 2e-5
    encoder_lr_scale: float = 0.1
    weight_decay: float = 0.07
    hardest: float = 0.15
    """The share of the pixels, the hardest ones, that the cross-entropy keeps in the end."""
    bootstrap_share: float = 0.5
    """Over this share of the steps it goes there from all pixels."""
    reference_share: float = 1.0
    """Over this share of the steps the auxiliary reference loss goes from 1 to 0."""
    feedback_from: float = 0.5
    """From this share of the steps on, predicted masks are remembered instead of the truth."""
    freeze_bank_from: float = 0.5
    """From this share of the steps on, the identity bank stays as it is. What it adds up to over a patch begins at
    less than a thousandth of what it becomes: if it never learns, identities are hardly seen."""
    views: int = 0
    """After each batch of clips come so many batches of pairs of views of single pictures, as many frames each, from
    which the blocks learn to find places again. Each is a step. The paper has none: its encoder knows ImageNet.
    """
    scratch: bool = False
    """Random encoder: nothing is frozen and batch statistics are learned."""
    weights: Path | None = None
    """Start from this file (ours or an official checkpoint)."""
    encoder: Path | None = None
    """Start the encoder from these ImageNet weights (torchvision's MobileNetV2 or ResNet, the authors' Swin)."""
    precision: str = "bf16"
    seed: int = 0
    about: str = ""
    """What the run needs and gives, and who measured it."""
    data: Data = field(default_factory=Data)
    validation: Validation = field(default_factory=Validation)
    run: Run = field(default_factory=Run)


def schedule(recipe: VosRecipe) -> Callable[[int], dict]:
    """The keyword arguments of `AOT.loss` at each step (reference, section 3)."""

    def done(step: int, share: float) -> float:
        return min(1.0, step / (share * recipe.steps)) if share > 0 else 1.0

    def at(step: int) -> dict:
        return {
            "hard_fraction": 1 - (1 - recipe.hardest) * done(step, recipe.bootstrap_share),
            "reference_weight": 1 - done(step, recipe.reference_share),
            "feedback": step >= recipe.feedback_from * recipe.steps,
            "freeze_bank": step >= recipe.freeze_bank_from * recipe.steps,
        }

    return at


def sources(recipe: VosRecipe, material: "list[tuple[Maker, float]]") -> "list[tuple[Source, float]]":
    """The weighted clip sources of a recipe; any source's objects may be merged with those of the first."""
    from tubelet.data.loader import merged_source

    found = [(make((recipe.crop, recipe.crop), recipe.frames), share) for make, share in material]
    return [(merged_source(source, found[0][0], recipe.data.merge), share) for source, share in found]


def views(recipe: VosRecipe, material: "list[tuple[Maker, float]]") -> Views | None:
    """Pairs of views of what the clips show, if the recipe wants any."""
    from tubelet.data.loader import view_source

    if recipe.views < 0:
        raise ValueError(f"--views is a number of batches, 0 for none, not {recipe.views}")
    if recipe.views == 0:
        return None
    size, room = (recipe.crop, recipe.crop), (2 * recipe.crop, 2 * recipe.crop)
    batch = max(1, recipe.batch * recipe.frames // 2)
    return Views([(view_source(make(room, 1), size), share) for make, share in material], batch, recipe.views)


def read_material(data: Data) -> "list[tuple[Maker, float]]":
    """What makes clips of the data, given their size (H, W) and number of frames, each with its share.

    Raises `ValueError` if no data is named, or what is named does not go together."""
    from tubelet.data.loader import image_source, synthetic_source, video_source
    from tubelet.data.photos import NO_PHOTOS, read_photos
    from tubelet.data.still_sets import read_stills
    from tubelet.data.ytvos import read_ytvos

    found: list[tuple[Maker, float]] = []
    if data.photos is not None and data.synthetic <= 0:
        raise ValueError("--data.photos is for synthetic clips, and this recipe has none: give --data.synthetic 1 too")
    if data.pace < 1:
        raise ValueError(f"--data.pace is at least 1, a smooth video, not {data.pace}")
    if data.synthetic > 0:
        photos = NO_PHOTOS if data.photos is None else read_photos(data.photos)
        found.append((partial(synthetic_source, max_pace=data.pace, photos=photos), data.synthetic))
    if data.images:
        stills = [still for root in data.images for still in read_stills(root)]
        beyond = {"bend": data.bend, "blurred": data.blurred, "covered": data.covered}
        found.append((partial(image_source, stills, **beyond), 1.0))
    if data.davis is not None:
        videos = davis_videos(data, data.davis_split)
        found.append((partial(video_source, videos, max_gap=data.davis_gap), data.davis_share))
    if data.ytvos is not None:
        videos = read_ytvos(data.ytvos, split="train")
        found.append((partial(video_source, videos, max_gap=data.ytvos_gap), data.ytvos_share))
    if not found:
        raise ValueError(
            "this recipe has no data: give --data.synthetic 1, --data.images, --data.davis or --data.ytvos"
        )
    return found


def davis_videos(data: Data, split: str) -> "list[VideoItem]":
    from tubelet.data.davis import read_davis

    if data.davis is None:
        raise ValueError("to validate on a DAVIS split, say where DAVIS is: --data.davis FOLDER")
    return list(read_davis(data.davis, year=data.davis_year, split=split, resolution=data.davis_resolution))


def validation(recipe: VosRecipe, worst_frames: Path | None = None) -> "Callable[[AOT], dict[str, float]]":
    """A function that follows the validation videos; J&F of each source, the first frame not scored.

    Each time it draws the frames with the lowest J&F into the PNG `worst_frames`, the last time's are overwritten."""
    from tubelet.data.dataset import VideoItem
    from tubelet.data.synthetic import make_clip
    from tubelet.train.worst import Worst

    wanted, size = recipe.validation, (recipe.crop, 16 * recipe.crop // 9)
    sets: dict[str, list] = {
        "synthetic J&F": [
            (f"synthetic {i}", *make_clip([recipe.seed, i, 0], frames=wanted.frames, size=size, pace=1.5))
            for i in range(wanted.synthetic)
        ],
        "DAVIS J&F": [] if wanted.davis_split is None else davis_videos(recipe.data, wanted.davis_split),
    }

    def load(video: "VideoItem | tuple") -> tuple:
        if not isinstance(video, VideoItem):
            return video
        shown = range(min(wanted.frames, len(video)))
        return video.name, [video.load_frame(t).rgb for t in shown], [video.load_mask(t) for t in shown]

    def score(model: "AOT") -> dict[str, float]:
        worst, numbers = Worst(), {}
        for kind, videos in sets.items():
            if videos:
                numbers[kind] = sum(jf_of_following(model, *load(video), worst=worst) for video in videos) / len(videos)
        if worst_frames is not None:
            worst.save(worst_frames)
        return numbers

    return score


def jf_of_following(
    model: "AOT", name: str, rgb: "Sequence[np.ndarray]", ids: "Sequence[np.ndarray]", worst: "Worst"
) -> float:
    """J&F of a video's frames after the first, whose masks are given. The frames that are worst of all go to `worst`,
    at most three of a video, so that one lost object does not crowd out the rest."""
    from tubelet.metrics.jf import score_sequence
    from tubelet.run import follow
    from tubelet.train.worst import truth_and_prediction
    from tubelet.types import Frame, Prompt, visible

    frames = (Frame(picture, t) for t, picture in enumerate(rgb))
    results = follow(frames, model.session(), {0: Prompt(ids[0])})
    found = {frame.index: result.labels for frame, result in results}
    score = score_sequence(((ids[t], found[t]) for t in range(1, len(ids))), objects=visible(ids[0]))
    of_frame = (score.j + score.f).mean(axis=0) / 2  # of frame 1 and those after it
    for t, jf in sorted(enumerate(of_frame.tolist(), start=1), key=lambda entry: entry[1])[:3]:
        title = f"{name}, frame {t}"
        worst.add(jf, partial(truth_and_prediction, rgb[t], ids[t], found[t], name=title, score=f"J&F {jf:.3f}"))
    return score.jf_mean


def run(name: str, recipe: VosRecipe) -> Path:
    """Trains, or goes on; see `fit`."""
    import torch

    from tubelet.data.loader import collate
    from tubelet.models.aot.model import build
    from tubelet.train.optim import parameter_groups, polynomial

    torch.manual_seed(recipe.seed)
    model = build(recipe.model, frozen_norm=not recipe.scratch)
    check_crop(recipe.crop, model)
    start(model, recipe)
    material = read_material(recipe.data)
    groups = parameter_groups(
        model,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        encoder_lr=(recipe.lr - recipe.floor_lr) * recipe.encoder_lr_scale + recipe.floor_lr,
        no_decay=("relative_value", "relative_position_bias_table", "decoder.out"),
        frozen=() if recipe.scratch else tuple(model.encoder.stem()),
    )
    return fit(
        name,
        recipe,
        model,
        groups,
        sources(recipe, material),
        collate=collate,
        views=views(recipe, material),
        schedule=schedule(recipe),
        rate=partial(polynomial, steps=recipe.steps, floor=recipe.floor_lr),
        evaluate=validation(recipe, recipe.run.folder(name) / "worst.png") if recipe.validation.every else None,
        evaluate_every=recipe.validation.every,
    )


def start(model: "AOT", recipe: VosRecipe) -> None:
    """Fills the model with the weights the recipe starts from.

    Raises `ValueError` if there are none, but a part of the encoder is to stay as it is."""
    from tubelet.weights import fill, fill_encoder, read_state

    if recipe.weights is not None:
        fill(model, read_state(recipe.weights), name=recipe.model, source=str(recipe.weights))
    elif recipe.encoder is not None:
        fill_encoder(model.encoder, read_state(recipe.encoder), source=str(recipe.encoder))
    elif not recipe.scratch:
        raise ValueError(
            "this recipe keeps the norms and first stages of its encoder as they are, so it needs trained ones: give "
            "--encoder IMAGENET.pth or --weights FILE, or --scratch to learn all from random weights"
        )


def check_crop(crop: int, model: "AOT") -> None:
    """Raises `ValueError` if the network cannot take square crops of this size."""
    extra = int(model.align_corners)
    if (crop - extra) % 16 or crop < 16:
        near = max(16, 16 * round((crop - extra) / 16)) + extra
        raise ValueError(f"this model takes crops of 16k + {extra} pixels, not {crop}; the nearest is --crop {near}")


# J&F on DAVIS 2017 val and G on YouTube-VOS 2018 val (the paper; AOST at full depth).
TABLE = {
    "aot-t": "79.9 and 80.2", "aot-s": "81.3 and 82.6", "aot-b": "82.5 and 83.5", "aot-l": "83.8 and 83.8",
    "r50-aot-l": "84.9 and 84.1", "r101-aot-l": None, "swinb-aot-l": "85.4 and 84.5", "aotv2-l": "- and 84.5",
    "r50-aotv2-l": "85.3 and 84.8", "swinb-aotv2-l": "86.3 and 85.1", "aost": "84.2 and 84.4",
    "r50-aost": "85.6 and 85.0", "swinb-aost": "85.5 and 84.9", "aost-share": None,
}  # fmt: skip


def _stages(model: str) -> dict[str, VosRecipe]:
    """The paper's two stages for one variant (section 5; floors, crops and early stops are the authors' code's)."""
    small, large = not model.startswith(("r50", "r101", "swinb")), model.startswith(("r101", "swinb"))
    first = VosRecipe(
        model, steps=100_000, batch=16, lr=4e-4, floor_lr=2e-5 if small else 1e-5, weight_decay=0.03,
        crop=464 if model.startswith("swinb") else 465, reference_share=0.1, feedback_from=1.0, freeze_bank_from=1.0,
        data=Data(images=(Path("data/static"),), merge=1.0),
        about="Stage one of the paper, still images, from an ImageNet encoder (--encoder). On 4 GPUs say --batch 4. "
        "0.6 days on 4 V100 for aot-t (the authors'; not run by us).",
    )  # fmt: skip
    score = TABLE[model]
    second = replace(
        first, lr=2e-4, weight_decay=0.07, reference_share=1.0, feedback_from=0.5, freeze_bank_from=0.5,
        data=Data(davis=Path("data/DAVIS"), ytvos=Path("data/YouTube-VOS")),
        run=Run(until=80_000 if large else None),
        about="Stage two of the paper, from the weights of stage one (--weights). On 4 GPUs say --batch 4. 0.6 days on "
        "4 V100 for aot-t; "
        + ("no scores published." if score is None else f"J&F on DAVIS 2017 val and G on YouTube-VOS 2018: {score}.")
        + " The authors' figures; not run by us.",
    )  # fmt: skip
    return {f"{model}-pretrain": first, f"{model}-main": second}


RECIPES: dict[str, VosRecipe] = {
    **{name: recipe for model in TABLE for name, recipe in _stages(model).items()},
    # The truth is remembered while masks are still garbage: fed back from the first step on, a random network learns
    # less than half as much of them (docs/training.md). Mined mildly and referred to throughout it keeps getting
    # better; the paper's schedule for 100,000 steps did not, squeezed into a few thousand.
    "aost-cpu": VosRecipe(
        "aost", steps=12_000, batch=2, frames=6, crop=193, lr=7e-4, floor_lr=2e-5, encoder_lr_scale=1.0,
        weight_decay=0.03, hardest=0.5, feedback_from=0.5, freeze_bank_from=1.0, views=2, scratch=True,
        data=Data(synthetic=1.0, pace=4.0),
        validation=Validation(every=600),
        about="AOST from random weights on a CPU, no data needed: what was found best on the way of runs 10 and 11 of "
        "docs/training.md (J&F 0.59 on seven DAVIS sequences, with photographs, four and a half hours), made one "
        "recipe; as such it was not run. 0.6 steps a second with two processes on two cores, 1.4 with --crop 129, as "
        "in the first half of run 10. The weights that come with the package had other runs and real video, see their "
        "card, pretrained/README.md.",
    ),
}  # fmt: skip

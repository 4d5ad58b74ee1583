"""Training Mask2Former-VIS and SyncVIS (SyncVIS, section 3.5; numbers the paper leaves out are its code's).

`mask2former-vis-*` and `syncvis-*` are the papers' recipes for 8 to 16 clips a step on 4 to 8 GPUs; hardware, time and
AP are the papers' and were not reproduced by us. They start from Mask2Former weights learned on COCO (`--weights`).
`syncvis-tiny-shapes` learns from scratch on a CPU, on clips that are made as it goes.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tubelet.recipes.base import Run, fit

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from tubelet.data.loader import TubeSource
    from tubelet.models.mask2former import Mask2Former
    from tubelet.models.syncvis import SyncVIS


@dataclass(frozen=True)
class Data:
    """Where clips come from; a source without a file is left out."""

    classes: str = "ytvis_2019"
    """The classes of ytvis_2019, ytvis_2021, ytvis_2022 or ovis; or shapes."""
    ytvis: Path | None = None
    """A YouTube-VIS or OVIS file with annotations."""
    ytvis_frames: Path | None = None
    """The folder its file names start from."""
    ytvis_share: float = 0.75
    reach: int = 20
    """The other frames of a clip lie up to this many before or after the first one drawn."""
    coco: Path | None = None
    """COCO instances, as videos of one image each."""
    coco_images: Path | None = None
    coco_share: float = 1.0
    shapes: float = 0.0
    """Share of procedural clips (need no data)."""
    shapes_size: int = 96
    shapes_objects: tuple[int, int] = (1, 4)
    """At least and at most so many in a clip."""
    shapes_pace: float | None = None
    """The time between frames, 1 (slow) to 8; drawn for each clip if not given."""

    def shapes_options(self) -> dict[str, Any]:
        """As `data.shapes` takes them."""
        side = self.shapes_size
        return {"size": (side, side), "objects": self.shapes_objects, "pace": self.shapes_pace}


@dataclass(frozen=True)
class Validation:
    """Held-out clips of shapes that are scored every so often: AP into the log and `curves.png`."""

    every: int = 0
    """Steps from one time to the next; 0 for never."""
    videos: int = 60
    frames: int = 10


@dataclass(frozen=True)
class VisRecipe:
    """One training stage of one variant."""

    model: str
    steps: int
    batch: int
    """Clips a step, of one process."""
    frames: int
    decay_at: tuple[int, ...] = ()
    """Steps from which the learning rate is a tenth."""
    warmup: int = 0
    """Steps over which the learning rate rises."""
    lr: float = 1e-4
    encoder_lr_scale: float = 0.1
    weight_decay: float = 0.05
    clip_norm: float = 0.01
    subclip: int | None = None
    """Frames of a sub-clip (SyncVIS, equation 4); None matches the clip as a whole."""
    choose: Literal["all", "adjacent"] = "all"
    most: int | None = None
    """At most so many sub-clips, drawn anew at every step."""
    direction: Literal["both", "frame_to_video", "video_to_frame", "none"] = "both"
    """SyncVIS: which way queries are exchanged (Table 5)."""
    keep: int = 10
    """SyncVIS: N_k."""
    momentum: float = 0.05
    """SyncVIS: lambda."""
    points: int = 12544
    """Points of a mask that its loss looks at."""
    ema_share: float = 0.0
    """The weights that are kept are averaged over this share of the steps; 0: the last ones."""
    scratch: bool = False
    """Random encoder: its batch statistics are learned."""
    weights: Path | None = None
    """Start from this file: the model itself, or, for a SyncVIS, a Mask2Former."""
    precision: str = "fp16"
    seed: int = 0
    about: str = ""
    """What the run needs and gives, and who measured it."""
    data: Data = field(default_factory=Data)
    validation: Validation = field(default_factory=Validation)
    run: Run = field(default_factory=Run)


def class_names(name: str) -> list[str]:
    """Of a data set, or of `shapes`. Raises `ValueError` for another."""
    from tubelet.data.classes import categories
    from tubelet.data.shapes import CLASSES

    return list(CLASSES) if name == "shapes" else [category["name"] for category in categories(name)]


def build(recipe: VisRecipe) -> "Mask2Former | SyncVIS":
    """The model of a recipe, with its starting weights."""
    from tubelet.models import mask2former, syncvis
    from tubelet.weights import fill, our_state, read_state

    classes, options = len(class_names(recipe.data.classes)), {"frozen_norm": not recipe.scratch}
    if recipe.model in mask2former.VARIANTS:
        model = mask2former.build(recipe.model, classes, **options)
    else:
        exchange: dict[str, Any] = {"direction": recipe.direction, "keep": recipe.keep, "momentum": recipe.momentum}
        model = syncvis.build(recipe.model, classes, **options, **exchange)
    if recipe.weights is None:
        return model
    state = our_state(read_state(recipe.weights))
    if isinstance(model, syncvis.SyncVIS) and not any(name.startswith("host.") for name in state):
        fill(model.host, state, name=recipe.model, source=str(recipe.weights))
        model.start_frames_like_video()
    else:
        fill(model, state, name=recipe.model, source=str(recipe.weights))
    return model


def decays(name: str, parameter: "Tensor") -> bool:
    """No weight decay on norms and embeddings (the rule of Mask2Former)."""
    embeddings = ("query_content", "query_position", "level_embed", "relative_position_bias_table")
    return "norm" not in name and not name.endswith(embeddings)


def sources(recipe: VisRecipe) -> "list[tuple[TubeSource, float]]":
    """The weighted clip sources of a recipe. Raises `ValueError` if none is named."""
    from tubelet.data.loader import tube_source

    data, found = recipe.data, []
    if data.ytvis is not None:
        from tubelet.data.vis_clips import ytvis_source
        from tubelet.data.ytvis import read_ytvis

        videos = read_ytvis(data.ytvis, frames=data.ytvis_frames)
        found.append((ytvis_source(videos, recipe.frames, reach=data.reach), data.ytvis_share))
    if data.coco is not None:
        from tubelet.data.vis_clips import coco_source

        if data.coco_images is None:
            raise ValueError("say where the images of --data.coco are: --data.coco-images FOLDER")
        found.append((coco_source(data.coco, data.coco_images, recipe.frames, dataset=data.classes), data.coco_share))
    if data.shapes > 0:
        found.append((tube_source(frames=recipe.frames, **data.shapes_options()), data.shapes))
    if not found:
        raise ValueError("this recipe has no data: give --data.ytvis and --data.ytvis-frames, --data.coco, or shapes")
    return found


def validation(recipe: VisRecipe) -> "Callable[[Mask2Former | SyncVIS], dict[str, float]]":
    """A function that scores a model on held-out shapes: the official AP and AP at an overlap of a half."""
    from tubelet.data.shapes import held_out

    wanted = recipe.validation
    videos, truth = held_out(wanted.videos, frames=wanted.frames, **recipe.data.shapes_options())

    def score(model: "Mask2Former | SyncVIS") -> dict[str, float]:
        numbers = score_videos(model, videos, truth)
        return {name: numbers[name] for name in ("AP", "AP50")}

    return score


def score_videos(
    model: "Mask2Former | SyncVIS", videos: "Sequence[np.ndarray]", truth: dict[str, Any]
) -> dict[str, float]:
    """The official numbers of a model on videos (T, H, W, 3) in memory, each seen as a whole at its own size; `truth`
    is theirs as the content of a YouTube-VIS file (`data.shapes.held_out`)."""
    from tubelet.data.make_ytvis import write_ytvis
    from tubelet.metrics.vis_ap import score_vis
    from tubelet.run import predict_set
    from tubelet.types import Frame

    with tempfile.TemporaryDirectory() as folder:
        gt, pred = Path(folder) / "truth.json", Path(folder) / "found.json"
        write_ytvis(gt, truth)
        frames = ((i, (Frame(x, t) for t, x in enumerate(rgb))) for i, rgb in enumerate(videos, start=1))
        predict_set(frames, lambda: model.session(short_edge=min(videos[0].shape[1:3])), pred)
        numbers = score_vis(gt, pred, workers=1).to_json()
    return {name: float(value) for name, value in numbers.items() if isinstance(value, int | float)}


def run(name: str, recipe: VisRecipe) -> Path:
    """Trains, or goes on; see `fit`."""
    import torch

    from tubelet.data.loader import collate_tubes
    from tubelet.loss.points import Points
    from tubelet.train.optim import parameter_groups, stepped

    torch.manual_seed(recipe.seed)
    model = build(recipe)
    groups = parameter_groups(
        model,
        lr=recipe.lr,
        encoder_lr=recipe.lr * recipe.encoder_lr_scale,
        weight_decay=recipe.weight_decay,
        decays=decays,
    )
    loss = {"subclip": recipe.subclip, "choose": recipe.choose, "most": recipe.most, "points": Points(recipe.points)}
    exchange = {"direction": recipe.direction, "keep": str(recipe.keep), "momentum": str(recipe.momentum)}
    return fit(
        name,
        recipe,
        model,
        groups,
        sources(recipe),
        collate=collate_tubes,
        schedule=lambda step: loss,
        rate=partial(stepped, drops=recipe.decay_at, warmup=recipe.warmup),
        clip_norm=recipe.clip_norm,
        ema_share=recipe.ema_share,
        evaluate=validation(recipe) if recipe.validation.every else None,
        evaluate_every=recipe.validation.every,
        metadata={"classes": " ".join(class_names(recipe.data.classes)), **exchange},
    )


def _syncvis(backbone: str, classes: str) -> VisRecipe:
    """The settings of the authors' files; where they have none (2022, OVIS), those of VITA, which theirs build on."""
    first = backbone == "r50" and classes == "ytvis_2019"
    ap = "51.5 AP on YouTube-VIS 2019 (the paper's)." if first else "The paper gives no AP on this host."
    steps, drops = {
        "ytvis_2019": (70_000, (37_500,)) if first else (140_000, (75_000,)),
        "ovis": (150_000, (50_000, 125_000)),
    }.get(classes, (187_500, (100_000,)))
    return VisRecipe(
        f"syncvis-{backbone}",
        steps=steps,
        decay_at=drops,
        batch=2,
        frames={"ytvis_2019": 8 if first else 5}.get(classes, 6),
        lr=1e-4 if first else 5e-5,
        subclip=2 if classes in ("ovis", "ytvis_2022") else 3,
        data=Data(
            classes=classes,
            reach=20 if classes == "ytvis_2019" else 8,
            ytvis_share={"ytvis_2019": 0.75, "ovis": 0.25}.get(classes, 0.8),
        ),
        about=f"{ap} 8 clips a step: 4 A100 (80 GB), 1.5 days for Swin-L (the paper's). Not run by us.",
    )  # fmt: skip


def _mask2former(year: str, steps: int, drop: int, ap: str) -> VisRecipe:
    return VisRecipe(
        "mask2former-vis-r50",
        steps=steps,
        decay_at=(drop,),
        batch=2,
        frames=2,
        data=Data(classes=f"ytvis_{year}"),
        about=f"YouTube-VIS {year} after COCO; 16 clips a step: 8 processes. {ap} AP (the authors'). Not run by us.",
    )


RECIPES: dict[str, VisRecipe] = {
    # For the other backbones say `--model mask2former-vis-swin-t`, and so on.
    "mask2former-vis-2019": _mask2former("2019", 6_000, 4_000, "46.4"),
    "mask2former-vis-2021": _mask2former("2021", 8_000, 5_500, "40.6"),
    **{
        f"syncvis-{backbone}-{name}": _syncvis(backbone, classes)
        for name, classes in (("2019", "ytvis_2019"), ("2021", "ytvis_2021"), ("2022", "ytvis_2022"), ("ovis", "ovis"))
        for backbone in ("r50", "r101", "swin-l")
    },
    "mask2former-tiny-shapes": VisRecipe(
        "mask2former-vis-tiny", steps=6_000, decay_at=(5_000,), batch=16, frames=1, warmup=50, lr=1e-3,
        encoder_lr_scale=1.0, clip_norm=1.0, ema_share=0.05, points=784, scratch=True, precision="no",
        data=Data(classes="shapes", shapes=1.0), validation=Validation(every=2_000),
        about="Single images of shapes from random weights: what COCO is to the others. 45 minutes on a CPU core.",
    ),
    "syncvis-tiny-shapes": VisRecipe(
        "syncvis-tiny", steps=800, decay_at=(650,), batch=4, frames=5, warmup=50, lr=5e-4,
        encoder_lr_scale=1.0, clip_norm=1.0, ema_share=0.05, subclip=3, points=784, scratch=True, precision="no",
        data=Data(classes="shapes", shapes=1.0, shapes_objects=(1, 3), shapes_pace=2.0),
        validation=Validation(every=400),
        about="SyncVIS on clips of shapes, no data needed; `--weights` of mask2former-tiny-shapes to start from.",
    ),
}  # fmt: skip

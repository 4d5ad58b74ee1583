"""Training Mask2Former for semantics and MPVSS (section 4.1; numbers the paper leaves out are its program's).

Two stages: `mask2former-vspw-*` learns to segment single frames; `mpvss-vspw-*` starts from it (`--weights`), freezes
all of it but its heads, and learns the flow on pairs of frames. Hardware, time and scores are the paper's and were not
reproduced by us. The `*-camvid` recipes are small enough for a CPU; there the flow learns from made motion in between.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tubelet.recipes.base import Run, fit

if TYPE_CHECKING:
    from tubelet.data.loader import FlowSource, Source
    from tubelet.data.semantic import SemanticVideo
    from tubelet.models.mpvss import MPVSS


HEADS = ("segmentor.decoder.heads.class_embed.", "segmentor.decoder.heads.mask_embed.")


@dataclass(frozen=True)
class Data:
    """Where frames come from, and how they are seen."""

    dataset: Literal["vspw", "cityscapes", "camvid"] = "vspw"
    root: Path | None = None
    """Its folder, as `tubelet check` takes it."""
    split: str = "train"
    size: tuple[int, int] = (480, 480)
    """Height and width of a crop."""
    short_edges: tuple[int, ...] = tuple(range(480, 1921, 96))
    """One of them is drawn; but the long edge is `long_edge` at most."""
    long_edge: int = 960
    reach: int = 10
    """The two frames of a pair are at most so many listed frames apart."""
    span: int | None = None
    """And at most so many frames of the video that they were taken from."""
    still: float = 0.0
    """This share of the pairs is one frame, and the same after a smooth motion: for data whose frames are far apart."""
    vipseg: Path | None = None
    """VIPSeg besides VSPW, whose classes it has; drawn with `vipseg_share`."""
    vipseg_share: float = 0.5


@dataclass(frozen=True)
class VssRecipe:
    """One training stage of one variant."""

    model: str
    motion: str = "query"
    """What estimates flow: query (MPVSS); query-random, query-learned, query-for-pf, flownet (its ablations); none: the
    segmentor alone, on single frames."""
    steps: int = 90_000
    batch: int = 2
    """Clips a step, of one process."""
    lr: float = 5e-5
    encoder_lr_scale: float = 0.1
    weight_decay: float = 0.05
    clip_norm: float = 0.01
    warmup: float = 0.0
    """Share of the steps over which the learning rate rises; then it falls with power 0.9 to nothing."""
    learns: Literal["all", "motion and heads", "motion"] = "motion and heads"
    truth: Literal["classes", "flow"] = "classes"
    """What a clip is compared with; flow: that of a made motion of single frames, in the place of Flying Chairs."""
    points: int = 12544
    """Points of a mask that its loss looks at."""
    ema_share: float = 0.0
    """The weights that are kept are averaged over this share of the steps; 0: the last ones."""
    scratch: bool = False
    """Random encoder: its batch statistics are learned."""
    weights: Path | None = None
    """Start from this file: a segmentor (ours or the authors' Mask2Former), or a whole MPVSS."""
    flownet: Path | None = None
    """A FlowNetS, for the encoder of the flow module: trained on Flying Chairs (mmtracking's or FlowNetPytorch's), or
    one of ours (`flow-camvid`)."""
    precision: str = "fp16"
    seed: int = 0
    about: str = ""
    """What the run needs and gives, and who measured it."""
    data: Data = field(default_factory=Data)
    run: Run = field(default_factory=Run)

    @property
    def frames(self) -> int:
        """Of a clip."""
        return 1 if self.motion == "none" else 2


def build(recipe: VssRecipe) -> "MPVSS":
    """The model of a recipe, with its starting weights; what does not learn is frozen.

    A file of a segmentor alone fills the segmentor of a model with flow, whose flow then starts anew."""
    from tubelet.data.semantic_classes import NAMES
    from tubelet.models import mpvss
    from tubelet.weights import fill, our_state, read_state

    count, name = len(NAMES[recipe.data.dataset]), recipe.model
    model = mpvss.build(name, count, motion=recipe.motion, frozen_norm=not recipe.scratch)
    if recipe.weights is not None:
        state = our_state(read_state(recipe.weights))
        if mpvss.motion_of(state) == "none":
            state = {key.removeprefix("segmentor."): value for key, value in state.items()}
            fill(model.segmentor, state, name=f"the segmentor of {name}", source=str(recipe.weights))
        else:
            fill(model, state, name=name, source=str(recipe.weights))
    if recipe.flownet is not None:
        load_flownet(model, recipe.flownet)
    learning = {"all": ("",), "motion and heads": ("motion.", *HEADS), "motion": ("motion.",)}[recipe.learns]
    for key, parameter in model.named_parameters():
        if not key.startswith(learning):
            parameter.requires_grad_(False)
    return model


def load_flownet(model: "MPVSS", path: Path) -> None:
    """Fills the encoder of the flow module, from a FlowNetS trained elsewhere or from any of our models with flow.

    Raises `ValueError` if there is none, or the file is of another kind or width."""
    from tubelet.models.mpvss_official import flownet_encoder
    from tubelet.weights import fill, read_state

    if model.motion is None:
        raise ValueError("--flownet is for a model that estimates flow; this one has motion none")
    state, ours = read_state(path), "motion.pyramid."
    of_ours = {key.removeprefix(ours): value for key, value in state.items() if key.startswith(ours)}
    fill(model.motion.pyramid, of_ours or flownet_encoder(state), name="the encoder of the flow", source=str(path))


def videos(dataset: str, root: Path, split: str) -> "list[SemanticVideo]":
    """Of a split of a data set."""
    from tubelet.data.camvid import read_camvid
    from tubelet.data.cityscapes import read_cityscapes
    from tubelet.data.vspw import read_vspw

    return {"vspw": read_vspw, "cityscapes": read_cityscapes, "camvid": read_camvid}[dataset](root, split)


def sources(recipe: VssRecipe) -> "list[tuple[Source | FlowSource, float]]":
    """The weighted clip sources of a recipe. Raises `ValueError` if no data is named."""
    from tubelet.data.semantic_clips import flow_source, semantic_source
    from tubelet.data.vspw import read_vipseg

    data = recipe.data
    if data.root is None:
        raise ValueError(f"this recipe has no data: give the folder of {data.dataset} as --data.root")
    if recipe.truth == "flow" and recipe.motion == "none":
        raise ValueError("flow is learned by models that estimate it; this one has motion none")
    if data.vipseg is not None and data.dataset != "vspw":
        raise ValueError(f"VIPSeg has the classes of vspw, not of {data.dataset}")
    camera: dict[str, Any] = {"size": data.size, "short_edges": data.short_edges, "long_edge": data.long_edge}
    pairs: dict[str, Any] = {"reach": data.reach, "span": data.span, "still": data.still}
    clips = partial(flow_source, **camera)
    if recipe.truth == "classes":
        clips = partial(semantic_source, frames=recipe.frames, **pairs, **camera)
    found = [(clips(videos(data.dataset, data.root, data.split)), 1.0)]
    if data.vipseg is not None:
        found.append((clips(read_vipseg(data.vipseg, data.split)), data.vipseg_share))
    return found


def run(name: str, recipe: VssRecipe) -> Path:
    """Trains, or goes on; see `fit`."""
    import torch

    from tubelet.data.loader import collate_flow, collate_semantic
    from tubelet.data.semantic_classes import NAMES
    from tubelet.loss.points import Points
    from tubelet.recipes.vis import decays
    from tubelet.train.optim import parameter_groups, polynomial

    torch.manual_seed(recipe.seed)
    model = build(recipe)
    groups = parameter_groups(
        model,
        lr=recipe.lr,
        encoder_lr=recipe.lr * recipe.encoder_lr_scale,
        weight_decay=recipe.weight_decay,
        decays=decays,
    )
    loss: dict[str, Any] = {"points": Points(recipe.points)}
    classes = " ".join(name.replace(" ", "_") for name in NAMES[recipe.data.dataset])
    return fit(
        name,
        recipe,
        model,
        groups,
        sources(recipe),
        collate=collate_flow if recipe.truth == "flow" else collate_semantic,
        schedule=lambda step: loss,
        rate=partial(polynomial, steps=recipe.steps, floor=0.0, warmup=recipe.warmup),
        clip_norm=recipe.clip_norm,
        ema_share=recipe.ema_share,
        metadata={"classes": classes, "grid": model.grid},
    )


TABLE = {  # mIoU in the paper: per-frame and MPVSS on VSPW, then on Cityscapes; hours for MPVSS on 8 V100
    "r50": (38.5, 37.5, 79.4, 78.4, 9.3),
    "r101": (39.3, 38.8, 80.1, 78.2, 11.5),
    "swin-t": (41.2, 39.9, 82.1, 80.7, 10.2),
    "swin-s": (42.1, 40.4, 82.6, 81.3, 11.1),
    "swin-b": (54.1, 52.6, 83.3, 81.7, 12.2),
    "swin-l": (56.1, 53.9, 83.3, 81.6, 13.4),
}
CITYSCAPES = Data(
    dataset="cityscapes", size=(512, 1024), short_edges=tuple(int(102.4 * k) for k in range(5, 21)), long_edge=4096
)


def _papers(backbone: str) -> dict[str, VssRecipe]:
    """Both stages on both data sets. 8 processes of 2 clips; Cityscapes at the rates of Mask2Former's own recipe."""
    vspw, vspw_flow, city, city_flow, hours = TABLE[backbone]
    first: dict[str, Any] = {"motion": "none", "learns": "all"}
    model = f"mpvss-{backbone}"
    not_run = "(the paper's). Not run by us."
    return {
        f"mask2former-vspw-{backbone}": VssRecipe(
            model, **first, about=f"Stage 1. 16 clips a step on 8 V100; {vspw} mIoU on VSPW {not_run}"
        ),
        f"mpvss-vspw-{backbone}": VssRecipe(
            model, about=f"Stage 2. 16 clips a step on 8 V100, {hours} hours; {vspw_flow} mIoU on VSPW {not_run}"
        ),
        f"mask2former-cityscapes-{backbone}": VssRecipe(
            model, **first, lr=1e-4, data=CITYSCAPES,
            about=f"Stage 1, or take Mask2Former's own weights. 16 clips a step; {city} mIoU on Cityscapes {not_run}",
        ),
        f"mpvss-cityscapes-{backbone}": VssRecipe(
            model, data=CITYSCAPES,
            about=f"Stage 2. 16 clips a step; {city_flow} mIoU on Cityscapes {not_run} Its crop is not published.",
        ),
    }  # fmt: skip


CAMVID = Data(dataset="camvid", size=(288, 352), short_edges=(240, 288, 360, 432, 504), long_edge=1000)
CAMVID_PAIRS = replace(CAMVID, reach=1, span=31, still=0.7)  # the training frames are a second apart
RECIPES: dict[str, VssRecipe] = {
    **{name: recipe for backbone in TABLE for name, recipe in _papers(backbone).items()},
    "mask2former-camvid": VssRecipe(
        "mpvss-tiny", motion="none", learns="all", steps=3_000, batch=4, lr=5e-4, encoder_lr_scale=1.0, clip_norm=1.0,
        warmup=0.02, points=3136, ema_share=0.05, scratch=True, precision="no", data=CAMVID,
        about="Stage 1 on CamVid, from random weights. 45 minutes on one core; 55.7 mIoU on the validation frames.",
    ),
    "flow-camvid": VssRecipe(
        "mpvss-tiny", learns="motion", truth="flow", steps=5_000, batch=4, lr=7e-4, clip_norm=1.0, warmup=0.02,
        ema_share=0.05, precision="no", data=CAMVID,
        about="Between the stages on CamVid, in the place of Flying Chairs: `--weights` of mask2former-camvid. 40 "
        "minutes on one core; 3,500 steps more, from its weights, make it better still (docs/measured.md).",
    ),
    "mpvss-camvid": VssRecipe(
        "mpvss-tiny", steps=2_000, batch=4, lr=2e-4, encoder_lr_scale=1.0, clip_norm=1.0, warmup=0.02, points=3136,
        ema_share=0.05, precision="no", data=CAMVID_PAIRS,
        about="Stage 2 on CamVid: `--weights` of flow-camvid. 25 minutes on one core; scores are in docs/measured.md.",
    ),
}  # fmt: skip

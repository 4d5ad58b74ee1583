"""MPVSS: Mask Propagation for Efficient Video Semantic Segmentation (Weng et al., NeurIPS 2023).

What is unusual about it:

- Only every fifth frame, a key frame, goes through a segmentor (Mask2Former for images). In between, its masks are
  carried along flow that costs a fifth of it, and its classes are kept.
- Flow is not one field for the picture but one for each mask: the queries that found the segments in the key frame go
  on as flow queries, and collect from both pictures how their segment has moved (equations 1 to 3).
- A flow always leads back to the key frame, never to the frame before, so that errors do not add up.

The steps: `segment` a key frame, `flows` from another frame back to it, `carry` its masks along them, `classify`.
The paper leaves much open; where it and the authors' program differ, this is the program (their weights fit it), but
for the warp (`nn/warp.py`).
"""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tubelet.loss.flow import endpoint_error
from tubelet.loss.points import POINTS, Points
from tubelet.models import mask2former
from tubelet.models.mask2former import STRIDE, Mask2Former, clip_names, generators, pad_masks, prepare, video_losses
from tubelet.nn.feed_forward import FeedForward
from tubelet.nn.flownet import FlowDecoder, FlowEncoder
from tubelet.nn.mask_decoder import Attention, Prediction
from tubelet.nn.position import sine_position
from tubelet.nn.warp import Grid, resize_flow, warp
from tubelet.types import Clip, FlowLabels, TubeLabels

if TYPE_CHECKING:
    from tubelet.models.key_frames import KeyFrameSession

MEAN = (0.411, 0.432, 0.450)  # of the pictures that flow is estimated from; they are not divided by a deviation

# What estimates flow: the paper's; its ablations (Table 3b), with learned queries instead of those of the key frame,
# without pixel-wise flow, and with pixel-wise flow alone; FlowNetS, which knows no queries; nothing (per-frame, copy).
Motion = Literal["query", "query-random", "query-learned", "query-for-pf", "flownet", "none"]


class Key(NamedTuple):
    """A segmented frame: class and mask logits at stride 4 (T = 1), the last queries, and the picture for the flow."""

    prediction: Prediction
    picture: Float[Tensor, "B 3 h2 w2"]


class QueryFlow(nn.Module):
    """A flow for each query (section 3.3). `content`: flow queries begin as those of the key frame, or as learned ones.
    `output`: query-based and pixel-wise flow fused (equation 4), or one of them alone. `width`: of the encoder."""

    def __init__(
        self,
        *,
        queries: int = 100,
        channels: int = 256,
        hidden: int = 2048,
        stages: int = 3,
        content: Literal["key", "learned"] = "key",
        output: Literal["both", "query", "pixel"] = "both",
        width: int = 64,
    ):
        super().__init__()
        self.pyramid = FlowEncoder(width)
        *fine, c4, c5, c6 = self.pyramid.channels
        self.entrances = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in (c6, c5, c4))
        self.level_embed = nn.Parameter(torch.randn(3, channels))
        self.content = nn.Parameter(torch.randn(queries, channels)) if content == "learned" else None
        self.query_position = nn.Parameter(torch.randn(queries, channels))
        self.blocks = nn.ModuleList(Block(channels, hidden) for _ in range(3 * stages))
        self.norm = self.vectors = self.places = self.fuse = None
        if output != "pixel":
            self.norm = nn.LayerNorm(channels)
            self.vectors = mlp(channels, 2 * channels, channels)
            self.places = mlp(fine[0], 2 * channels, 2 * channels)
        self.pixel = None
        if output != "query":
            skips = (channels, channels, *reversed(fine))
            self.pixel = FlowDecoder(channels, skips, (channels // 2, channels // 2, channels // 2, channels // 4))
        if output == "both":
            self.fuse = nn.Conv2d(4, 2, 3, padding=1)
            nn.init.zeros_(self.fuse.weight)
            nn.init.ones_(self.fuse.bias)  # pyright: ignore[reportArgumentType]

    def forward(
        self,
        pair: Float[Tensor, "B 6 h2 w2"],
        queries: Float[Tensor, "B Q C"],
        choice: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "B _ 2 h8 w8"]:
        """`pair`: the new picture, then the key picture, at half size. Flow (x, y) from the new frame to the key frame
        in pixels of stride 8, for each query (of the `choice`, None: of all), or one for all of them."""
        finest, fine, *coarse = self.pyramid(pair)
        queries, levels = self.decode(queries, coarse[::-1])
        pixel = None if self.pixel is None else self.pixel([*levels, fine, finest])[:, None]
        if self.vectors is None:
            assert pixel is not None
            return pixel
        query = self.query_flow(queries if choice is None else queries[:, choice], finest)
        return query if pixel is None else self.fused(pixel, query)

    def decode(
        self, queries: Float[Tensor, "B Q C"], maps: list[Float[Tensor, "B _ _ _"]]
    ) -> tuple[Float[Tensor, "B Q C"], list[Float[Tensor, "B C _ _"]]]:
        """Queries and levels, coarse to fine, refined by each other, level by level, three times."""
        if self.content is not None:
            queries = self.content.expand(len(queries), -1, -1)
        sizes = [x.shape[2:] for x in maps]
        triples = zip(self.entrances, maps, self.level_embed, strict=True)
        levels = [entrance(x).flatten(2).transpose(1, 2) + level for entrance, x, level in triples]
        positions = [sine_position(h, w, x.shape[2], start=1).to(x) for (h, w), x in zip(sizes, levels, strict=True)]
        for i, block in enumerate(self.blocks):
            i %= len(levels)
            queries, levels[i] = block(queries + self.query_position, levels[i] + positions[i])
        return queries, [x.transpose(1, 2).unflatten(2, size) for x, size in zip(levels, sizes, strict=True)]

    def query_flow(
        self, queries: Float[Tensor, "B Q C"], finest: Float[Tensor, "B _ h8 w8"]
    ) -> Float[Tensor, "B Q 2 h8 w8"]:
        """F^QF: the product of each query's vector with two vectors of every place, the last one for x."""
        assert self.norm is not None
        assert self.vectors is not None
        assert self.places is not None
        vectors = self.vectors(self.norm(queries))
        y, x = self.places(finest.flatten(2).transpose(1, 2)).transpose(1, 2).chunk(2, dim=1)
        return torch.stack((vectors @ x, vectors @ y), dim=2).unflatten(3, finest.shape[2:])

    def fused(
        self, pixel: Float[Tensor, "B 1 2 h8 w8"], query: Float[Tensor, "B Q 2 h8 w8"]
    ) -> Float[Tensor, "B Q 2 h8 w8"]:
        """Equation 4, but for the upsampling: a convolution of both; the share of the first is the same for all."""
        assert self.fuse is not None
        of_pixel, of_query = self.fuse.weight.split(2, dim=1)
        common = F.conv2d(pixel[:, 0], of_pixel, self.fuse.bias, padding=1)
        own = F.conv2d(query.flatten(0, 1), of_query, padding=1).unflatten(0, query.shape[:2])
        return common[:, None] + own


class Block(nn.Module):
    """Equations 1 to 3: queries and places attend to all queries and places, then an MLP."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.attention = Attention(channels, 8)
        self.norm = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, hidden)

    def forward(
        self, queries: Float[Tensor, "B Q C"], places: Float[Tensor, "B n C"]
    ) -> tuple[Float[Tensor, "B Q C"], Float[Tensor, "B n C"]]:
        z = torch.cat((queries, places), dim=1)
        z = self.feed_forward(self.norm(z + self.attention(z, z, z)))
        return z[:, : queries.shape[1]], z[:, queries.shape[1] :]


class FlowNetS(nn.Module):
    """Optical flow, the same for all queries: the baseline of Table 3."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.pyramid = FlowEncoder(width)
        *skips, top = self.pyramid.channels
        self.decoder = FlowDecoder(top, tuple(reversed(skips)), (8 * width, 4 * width, 2 * width, width))

    def forward(
        self,
        pair: Float[Tensor, "B 6 h2 w2"],
        queries: Float[Tensor, "B Q C"],
        choice: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "B 1 2 h8 w8"]:
        """As `QueryFlow.forward`."""
        return self.decoder(self.pyramid(pair)[::-1])[:, None]


class MPVSS(nn.Module):
    """`segmentor`: Mask2Former for images. `motion`: what estimates flow; None for the segmentor alone. `grid`: how
    masks are read along it (`nn/warp.py`)."""

    def __init__(self, segmentor: Mask2Former, motion: QueryFlow | FlowNetS | None, *, grid: Grid = "exact"):
        super().__init__()
        self.segmentor, self.motion = segmentor, motion
        self.grid: Grid = grid

    @property
    def classes(self) -> int:
        return self.segmentor.classes

    def train(self, mode: bool = True) -> "MPVSS":
        """An encoder that learns nothing stays as it is in use: it drops no paths and gathers no statistics."""
        super().train(mode)
        if not any(p.requires_grad for p in self.segmentor.encoder.parameters()):
            self.segmentor.encoder.eval()
        return self

    def segment(self, images: Float[Tensor, "B 3 H W"]) -> Key:
        """A key frame, RGB 0..1 of any size."""
        clip = self.segmentor.encode(prepare(images[:, None]))
        return Key(self.segmentor.decode_last(clip), picture(images))

    def flows(
        self,
        images: Float[Tensor, "B 3 H W"],
        key: Float[Tensor, "B 3 h2 w2"],
        queries: Float[Tensor, "B Q C"],
        choice: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "B _ 2 h8 w8"]:
        """The flow of each query (of the `choice`) from a frame, RGB 0..1, back to its key frame, in pixels of stride
        8; one for all of them, if that is what estimates it."""
        assert self.motion is not None
        return self.motion(torch.cat((picture(images), key), dim=1), queries, choice)

    def carry(
        self, masks: Float[Tensor, "B Q T h4 w4"], flows: Float[Tensor, "B _ 2 h8 w8"]
    ) -> Float[Tensor, "B Q T h4 w4"]:
        """Mask logits of the key frame (T = 1), warped."""
        (b, q), size = masks.shape[:2], (masks.shape[3], masks.shape[4])
        fine = resize_flow(flows.flatten(0, 1), size)
        shared = flows.shape[1] == 1
        x = masks[:, :, 0] if shared else masks.flatten(0, 1)  # one flow: the queries are its channels
        return warp(x, fine, grid=self.grid).reshape(b, q, 1, *size)

    def loss(
        self, clip: Clip, labels: TubeLabels | FlowLabels, *, points: Points = POINTS
    ) -> dict[str, Float[Tensor, ""]]:
        """Clips of two frames, a key frame and a later one: the losses of Mask2Former for all ten predictions of the
        first, carried to the second along the same flow, against the truth of the second. Clips of one frame: those of
        its segmentor. With the true flow as `labels`: how far the flows of all queries are from it (`endpoint_error`).

        `labels`: each class that a clip shows, and where; or the flow between its two frames."""
        if isinstance(labels, FlowLabels):
            return {"endpoint": self.flow_error(clip, labels)}
        first, last = clip.images[:, 0], clip.images[:, -1]
        outputs = self.segmentor.decode(self.segmentor.encode(prepare(first[:, None])))
        if clip.images.shape[1] > 1:
            flows = self.flows(last, picture(first), outputs[-1].embeddings)
            outputs = [x._replace(mask_logits=self.carry(x.mask_logits, flows)) for x in outputs]
        truth = shown([masks[:, -1:] for masks in labels.masks], labels)
        chance = {"generator": generators(clip), "names": clip_names(clip)}
        return video_losses(outputs, truth, subclip=None, choose="all", most=None, points=points, **chance)

    def flow_error(self, clip: Clip, labels: FlowLabels) -> Float[Tensor, ""]:
        """The endpoint error of the flows of all queries, in pixels of stride 8; the segmentor learns nothing."""
        first, last = clip.images.unbind(1)
        queries = first.new_zeros(len(first), 0, 1)
        if isinstance(self.motion, QueryFlow):
            with torch.no_grad():
                queries = self.segment(first).prediction.embeddings
        return endpoint_error(self.flows(last, picture(first), queries), labels.flow)

    def session(self, **options) -> "KeyFrameSession":
        """One video on its way through this model; `options` are those of `KeyFrameSession`."""
        from tubelet.models.key_frames import KeyFrameSession

        return KeyFrameSession(self, **options)


def picture(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 h2 w2"]:
    """A frame, RGB 0..1, as flow is estimated from it: less a mean, padded with zeros as for the segmentor, halved."""
    x = images - images.new_tensor(MEAN)[:, None, None]
    h, w = x.shape[2:]
    x = F.pad(x, (0, -w % STRIDE, 0, -h % STRIDE))
    return F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)


def shown(masks: list[Tensor], labels: TubeLabels) -> TubeLabels:
    """The truth of those frames alone: classes that they do not show are left out."""
    there = [x.flatten(1).any(1) for x in masks]
    return TubeLabels(
        [classes[x] for classes, x in zip(labels.classes, there, strict=True)],
        [m[x] for m, x in zip(pad_masks(masks), there, strict=True)],
    )


def class_scores(class_logits: Float[Tensor, "Q K1"], mask_logits: Float[Tensor, "Q *_"]) -> Float[Tensor, "K *_"]:
    """How much each place speaks for each class: over all queries, the class's probability times the mask's."""
    probability = class_logits.softmax(1)[:, :-1]
    return (probability.T @ mask_logits.sigmoid().flatten(1)).unflatten(1, mask_logits.shape[1:])


def mlp(inward: int, hidden: int, outward: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inward, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outward)
    )


def build_motion(
    kind: str, *, queries: int = 100, channels: int = 256, hidden: int = 2048, width: int = 64
) -> QueryFlow | FlowNetS | None:
    """What estimates flow, by its name, one of `Motion`. Raises `ValueError` for another."""
    flow = partial(QueryFlow, queries=queries, channels=channels, hidden=hidden, width=width)
    if kind == "query":
        return flow()
    if kind == "query-random":
        return flow(content="learned", output="query")
    if kind == "query-learned":
        return flow(output="query")
    if kind == "query-for-pf":
        return flow(output="pixel")
    if kind == "flownet":
        return FlowNetS(width)
    if kind == "none":
        return None
    raise ValueError(f"motion must be one of {', '.join(get_args(Motion))}, got {kind!r}")


def motion_of(names: Iterable[str]) -> Motion:
    """What the parameters of these names (ours) estimate flow with."""
    has = {name.split(".")[1] for name in names if name.startswith("motion.")}
    if not has:
        return "none"
    if "decoder" in has:
        return "flownet"
    if "content" in has:
        return "query-random"
    if "pixel" not in has:
        return "query-learned"
    return "query" if "fuse" in has else "query-for-pf"


VARIANTS: dict[str, dict] = {
    "mpvss-r50": {"encoder": "r50"},
    "mpvss-r101": {"encoder": "r101"},
    "mpvss-swin-t": {"encoder": "swin-t"},
    "mpvss-swin-s": {"encoder": "swin-s"},
    "mpvss-swin-b": {"encoder": "swin-b"},
    "mpvss-swin-l": {"encoder": "swin-l"},
    # Ours, to learn in minutes: `recipes/vss.py`, tests.
    "mpvss-tiny": {
        "encoder": "tiny", "queries": 20, "channels": 64, "layers": 3, "pixel_layers": 2, "hidden": 256, "width": 16,
    },
}  # fmt: skip


def build(
    name: str, classes: int = 124, *, motion: str = "query", grid: Grid = "exact", frozen_norm: bool = True
) -> MPVSS:
    """A variant with random weights. `classes` without "no object" (124 for VSPW, 19 for Cityscapes); `motion`: one of
    `Motion`.

    Raises `KeyError` for a name that is not in `VARIANTS`, `ValueError` for another motion."""
    options = {"queries": 100, "channels": 256, "hidden": 2048, **VARIANTS[name]}
    encoder = mask2former.build_encoder(options.pop("encoder"), frozen_norm=frozen_norm)
    width = options.pop("width", 64)
    segmentor = Mask2Former(encoder, classes=classes, temporal=False, **options)
    size = {key: options[key] for key in ("queries", "channels", "hidden")}
    return MPVSS(segmentor, build_motion(motion, **size, width=width), grid=grid)

"""Mask2Former for images and for clips (Cheng et al., CVPR 2022; "Mask2Former for Video Instance Segmentation", 2021).

What is unusual about it:

- A fixed set of queries is refined layer by layer, each into one class and one mask; there are no boxes, no anchors,
  and no suppression of duplicates.
- A query attends only to the places its own last mask covers (`nn/mask_decoder.py`).
- For a clip almost nothing changes: the frames become one volume, a query attends to all of them at once, and its mask
  is a tube. The weights are those of the image model, name by name.

The steps: `encode` each frame, then `decode` the clip.
"""

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tubelet.loss.points import POINTS, Points
from tubelet.loss.subclips import synchronized_loss
from tubelet.loss.tubes import Chance, deep_supervision
from tubelet.nn.backbone import Encoder, ResNet, SmallNet, swin
from tubelet.nn.mask_decoder import Choice, MaskDecoder, Prediction
from tubelet.nn.pixel_decoder import PixelDecoder
from tubelet.types import Clip, TubeLabels
from tubelet.video.resize import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from tubelet.models.clips import ClipSession

STRIDE = 32  # the sides of a frame are multiples of it


class Encoded(NamedTuple):
    """Encoded clips: `mask_features` and `finest` (what they are a projection of) at stride 4, `levels` at strides 32,
    16, 8."""

    mask_features: Float[Tensor, "B T C h4 w4"]
    finest: Float[Tensor, "B T C h4 w4"]
    levels: list[Float[Tensor, "B T C _ _"]]


class Mask2Former(nn.Module):
    """`encoder` gives maps at strides 4, 8, 16, 32. `temporal`: the places of a clip carry their time (video); False is
    the image model, for one frame at a time. `channels` (a multiple of 32), `layers` of the decoder, `pixel_layers` of
    the pixel decoder and `hidden` of the decoder's MLPs are the paper's; smaller models take less."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        classes: int,
        queries: int = 100,
        temporal: bool = True,
        channels: int = 256,
        layers: int = 9,
        pixel_layers: int = 6,
        hidden: int = 2048,
    ):
        super().__init__()
        self.classes, self.queries, self.hidden = classes, queries, hidden
        self.encoder = encoder
        self.pixel_decoder = PixelDecoder(encoder.channels, channels, layers=pixel_layers, hidden=hidden // 2)
        self.decoder = MaskDecoder(classes, queries, channels=channels, layers=layers, hidden=hidden, temporal=temporal)

    def encode(self, images: Float[Tensor, "B T 3 H W"]) -> Encoded:
        """Normalised RGB, padded to sides that are multiples of 32. Frames do not see each other yet.

        Raises `ValueError` for sides that are not."""
        batch, (h, w) = images.shape[:2], images.shape[3:]
        if h % STRIDE or w % STRIDE:
            raise ValueError(f"the sides of a frame must be multiples of {STRIDE}, got {h}x{w}; pad the frame first")
        mask_features, finest, levels = self.pixel_decoder(self.encoder(images.flatten(0, 1)))

        def unfold(x: Tensor) -> Tensor:
            return x.unflatten(0, batch)

        return Encoded(unfold(mask_features), unfold(finest), [unfold(x) for x in levels])

    def decode(self, clip: Encoded) -> list[Prediction]:
        """Class logits (B, Q, K + 1), "no object" last, and mask logits (B, Q, T, h4, w4): ten predictions, of the
        learned queries and after each of the nine layers."""
        return self.decoder(clip.mask_features, clip.levels)

    def loss(
        self,
        clip: Clip,
        labels: TubeLabels,
        *,
        subclip: int | None = None,
        choose: Literal["all", "adjacent"] = "all",
        most: int | None = None,
        points: Points = POINTS,
    ) -> dict[str, Float[Tensor, ""]]:
        """Class, cross-entropy and dice losses of all ten predictions, each matched anew (`loss/tubes.py`).

        `subclip`: cut the predictions into sub-clips of so many frames, or as many as there are, and match each by
        itself (SyncVIS, equation 4); None: the clip as a whole, as in the paper. `choose`, `most`: which sub-clips."""
        outputs = self.decode(self.encode(prepare(clip.images)))
        cut = {"subclip": subclip, "choose": choose, "most": most}
        return video_losses(outputs, labels, **cut, points=points, generator=generators(clip), names=clip_names(clip))

    def decode_last(self, clip: Encoded, choose: Choice | None = None) -> Prediction:
        """The last prediction of `decode`, cheaper: what is used once training is over. `choose` takes the class logits
        of all queries and says of which ones masks are wanted (None: of all)."""
        return self.decoder.last(clip.mask_features, clip.levels, choose)

    def session(self, **options) -> "ClipSession":
        """One video on its way through this model; `options` are those of `ClipSession`."""
        from tubelet.models.clips import ClipSession

        return ClipSession(self, **options)


def video_losses(
    outputs: list[Prediction],
    labels: TubeLabels,
    *,
    subclip: int | None,
    choose: Literal["all", "adjacent"],
    most: int | None,
    points: Points,
    generator: Chance,
    names: list[str] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """The losses of predictions of tubes; see `Mask2Former.loss`."""
    time = outputs[0].mask_logits.shape[2]
    length = time if subclip is None else min(subclip, time)
    truth, cut = (labels.classes, pad_masks(labels.masks)), {"choose": choose, "most": most}
    return deep_supervision(
        [(x.class_logits, x.mask_logits) for x in outputs],
        lambda classes, masks: synchronized_loss(
            classes, masks, *truth, length=length, **cut, points=points, generator=generator, names=names
        ),
    )


def generators(clip: Clip) -> list[torch.Generator] | None:
    """The chance of each clip, seeded by its number; None where clips have none.

    One for each loss, so that the losses do not depend on each other's draws."""
    if clip.numbers is None:
        return None
    return [torch.Generator().manual_seed(number) for number in clip.numbers.tolist()]


def clip_names(clip: Clip) -> list[str] | None:
    """What an error calls each clip: its number in the stream it came from (`ClipStream.clip`)."""
    return None if clip.numbers is None else [f"clip {number} of the stream" for number in clip.numbers.tolist()]


def prepare(images: Float[Tensor, "B T 3 H W"]) -> Float[Tensor, "B T 3 _ _"]:
    """Training clips (RGB 0..1) normalised, then padded with zeros to the right and below to sides `encode` takes."""
    mean, std = (images.new_tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    h, w = images.shape[3:]
    return F.pad((images - mean) / std, (0, -w % STRIDE, 0, -h % STRIDE))


def pad_masks(masks: list[Bool[Tensor, "_ T H W"]]) -> list[Bool[Tensor, "_ T _ _"]]:
    """The truth of such clips, with nothing in the padding."""
    return [F.pad(m, (0, -m.shape[3] % STRIDE, 0, -m.shape[2] % STRIDE)) for m in masks]


def build_encoder(name: str, *, frozen_norm: bool = True) -> Encoder:
    """The encoders of the paper: `r50`, `r101`, `swin-t`, `swin-s` (window 7), `swin-b`, `swin-l` (window 12); and
    `tiny`, which is ours."""
    if name == "tiny":
        return SmallNet()
    if name.startswith("swin-"):
        size = name.removeprefix("swin-")
        return swin(size, window=12 if size in "bl" else 7, drop_path=0.3)
    return ResNet(int(name.removeprefix("r")), frozen_norm=frozen_norm)


VARIANTS: dict[str, dict] = {
    "mask2former-vis-r50": {"encoder": "r50"},
    "mask2former-vis-r101": {"encoder": "r101"},
    "mask2former-vis-swin-t": {"encoder": "swin-t"},
    "mask2former-vis-swin-s": {"encoder": "swin-s"},
    "mask2former-vis-swin-b": {"encoder": "swin-b"},
    "mask2former-vis-swin-l": {"encoder": "swin-l", "queries": 200},
    # Ours, to learn from scratch in minutes: `recipes/vis.py`, tests.
    "mask2former-vis-tiny": {
        "encoder": "tiny", "queries": 20, "channels": 64, "layers": 3, "pixel_layers": 2, "hidden": 256,
    },
}  # fmt: skip


def build(name: str, classes: int = 40, queries: int | None = None, *, frozen_norm: bool = True) -> Mask2Former:
    """A variant with random weights. `classes` without "no object" (40 for YouTube-VIS, 25 for OVIS); `queries` None:
    the variant's own. Raises `KeyError` for a name that is not in `VARIANTS`.

    `frozen_norm=False` learns the encoder's batch statistics, for training a ResNet without ImageNet weights."""
    options = dict(VARIANTS[name])
    own = options.pop("queries", 100)
    encoder = build_encoder(options.pop("encoder"), frozen_norm=frozen_norm)
    return Mask2Former(encoder, classes=classes, queries=own if queries is None else queries, **options)

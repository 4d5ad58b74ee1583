"""AOT, AOTv2 and AOST: Associating Objects with (Scalable) Transformers (Yang et al.).

What is unusual about them:

- All objects of a video go through the network together. Their masks are painted with the vectors of an identity bank
  (`embed_identities`, equation 2) and the decoder answers with one logit per identity (`decode`).
- Memory is attention memory: the keys of a remembered frame say what a place looks like, the values who is there.
- AOST trains its first 1, 2 and 3 blocks as three networks in one (`loss`, equation 4), so that the depth is free at
  run time.

The steps, in the order of a video (Fig. 3a): `encode_image`, then `refer` on a frame with given masks, or `propagate`
and `decode` on any other, then `memorize` with the masks found.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from tubelet.models.aot.blocks import LSTT, Decoder, Matched, Memory, initialize, one_hot
from tubelet.nn.backbone import Encoder, MobileNetV2, ResNet, swin
from tubelet.nn.position import sine_position
from tubelet.types import Clip, FlowLabels, Labels
from tubelet.video.resize import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from tubelet.models.aot.session import AOTSession

IDENTITIES = 10
CHANNELS = 256
LONG_EDGE = 1040  # 1.3 * 800, the authors' limit for 480p


class Encoded(NamedTuple):
    """An encoded frame: the LSTT's input tokens, their (h, w), and the decoder's shortcuts at strides 4, 8, 16."""

    tokens: Float[Tensor, "B hw C"]
    size: tuple[int, int]
    shortcuts: list[Float[Tensor, "B _ _ _"]]


class AOT(nn.Module):
    """One network for the whole family; see `variants.py` for its names.

    `depth`: blocks of the LSTT. `gated`: block V2. `scalable`: any depth up to `depth` at run time (AOST).
    `shared`: one block used `depth` times. `memory_gap`: every how many frames one enters the long-term memory; the
    default of a session (None: only frames with given masks, as in AOT-T/S/B).
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        depth: int,
        gated: bool = False,
        scalable: bool = False,
        shared: bool = False,
        memory_gap: int | None = 5,
        align_corners: bool = True,
    ):
        super().__init__()
        self.depth, self.scalable, self.shared = depth, scalable, shared
        self.memory_gap, self.align_corners = memory_gap, align_corners
        self.long_edge = LONG_EDGE  # of a session's frames; weights that learned at another scale say so
        self.encoder = encoder
        widths = encoder.channels
        self.projector = nn.Conv2d(widths[-1], CHANNELS, 1)
        self.lstt = LSTT(CHANNELS, depth, gated=gated, shared=shared)
        depths = range(1, depth + 1) if scalable else (depth,)
        inputs = [CHANNELS if shared else CHANNELS * (d + 1) for d in depths]
        self.decoder = Decoder(inputs, widths[:3], IDENTITIES + 1, channels=CHANNELS, align_corners=align_corners)
        kernel, padding = (17, 8) if align_corners else (16, 0)
        self.identity_bank = nn.Conv2d(IDENTITIES + 1, CHANNELS, kernel, stride=16, padding=padding)
        self.identity_norm = nn.LayerNorm(CHANNELS) if gated else nn.Identity()
        for part in (self.projector, self.lstt, self.decoder):
            initialize(part)
        nn.init.orthogonal_(self.identity_bank.weight.view(CHANNELS, -1), gain=kernel**-2)

    def encode_image(self, images: Float[Tensor, "B 3 H W"]) -> Encoded:
        """Normalised RGB whose sides are 16k + 1 (16k without `align_corners`)."""
        maps = self.encoder(images)
        x = self.projector(maps[-1])
        return Encoded(x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3]), self.decoder.adapt(maps[:3]))

    def embed_identities(self, masks: Float[Tensor, "B 11 H W"]) -> Float[Tensor, "B hw 256"]:
        """Equation 2, patch-wise: the sum over each 16 x 16 patch of the vectors of the identities found there.

        `masks` are one-hot at the size of the network's input, channel 0 the background, which has an identity too."""
        return self.identity_norm(self.identity_bank(masks).flatten(2).transpose(1, 2))

    def embed_ids(self, ids: Integer[Tensor, "B H W"]) -> Float[Tensor, "B hw 256"]:
        """`embed_identities` of a map of identities 0..10."""
        return self.embed_identities(one_hot(ids, IDENTITIES + 1))

    def refer(
        self, frame: Encoded, identity: Float[Tensor, "B hw 256"], depth: int | None = None
    ) -> tuple[list[Float[Tensor, "B hw 256"]], list[Memory]]:
        """A frame with given masks: LSTT outputs (for the auxiliary loss) and the memory it leaves."""
        position = sine_position(*frame.size, CHANNELS, device=frame.tokens.device)
        return self.lstt.refer(frame.tokens, frame.size, position, identity, depth or self.depth)

    def propagate(
        self, frame: Encoded, memory: list[tuple[Memory, Memory]]
    ) -> tuple[list[Float[Tensor, "B hw 256"]], list[Matched]]:
        """A frame through as many blocks as there are (long-term, short-term) memories."""
        position = sine_position(*frame.size, CHANNELS, device=frame.tokens.device)
        return self.lstt.propagate(frame.tokens, frame.size, position, memory)

    def memorize(self, matched: list[Matched], identity: Float[Tensor, "B hw 256"]) -> list[Memory]:
        """The memory a propagated frame leaves, once its masks are known."""
        return self.lstt.memorize(matched, identity)

    def decode(self, frame: Encoded, outputs: list[Float[Tensor, "B hw 256"]]) -> Float[Tensor, "B 11 h4 w4"]:
        """Identification decoding: one logit per identity and place, at stride 4.

        Fewer outputs than the full depth ask a scalable model for that shallower network."""
        parts = outputs[-1:] if self.shared else [frame.tokens, *outputs]
        x = torch.cat(parts, dim=2).transpose(1, 2).unflatten(2, frame.size)
        return self.decoder(x, frame.shortcuts, len(outputs) - 1 if self.scalable else 0)

    def loss(
        self,
        clip: Clip,
        labels: Labels | FlowLabels,
        *,
        hard_fraction: float = 1.0,
        reference_weight: float = 1.0,
        feedback: bool = False,
        freeze_bank: bool = False,
        memory_gap: int = 2,
    ) -> dict[str, Float[Tensor, ""]]:
        """The sequential training of section 5: the first frame refers, the others are predicted one after another.

        `hard_fraction`: pixels that the cross-entropy keeps (1 -> 0.15 over the first half of the paper's schedule).
        `reference_weight`: of the auxiliary loss on the reference frame (decays to 0; at 0 it is not computed).
        `feedback`: remember predicted masks instead of the truth (second half of main training).
        `freeze_bank`: the identity bank gets no gradient (the authors do so during feedback).
        `memory_gap`: a frame enters the long-term memory every so many, if this model has such a memory at all.

        Returns `cross_entropy` and `jaccard` (0.5 each, the mean over predicted frames) and `reference`. A scalable
        model is supervised at every depth (equation 4).

        With the flow between two frames as `labels`: `matching`, see `matching_loss`; the options mean nothing then."""
        from tubelet.models.aot.training import clip_loss, matching_loss

        if isinstance(labels, FlowLabels):
            return matching_loss(self, clip, labels)
        return clip_loss(
            self,
            clip,
            labels,
            hard_fraction=hard_fraction,
            reference_weight=reference_weight,
            feedback=feedback,
            freeze_bank=freeze_bank,
            memory_gap=memory_gap,
        )

    def encode_clip(self, clip: Clip) -> list[Encoded]:
        """All frames of a batch of clips through the encoder at once -> one `Encoded` per time."""
        batch, time = clip.images.shape[:2]
        mean = clip.images.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
        std = clip.images.new_tensor(IMAGENET_STD).view(3, 1, 1)
        tokens, size, shortcuts = self.encode_image(((clip.images - mean) / std).flatten(0, 1))

        def at(x: Tensor, t: int) -> Tensor:
            return x.unflatten(0, (batch, time))[:, t]

        return [Encoded(at(tokens, t), size, [at(x, t) for x in shortcuts]) for t in range(time)]

    def session(
        self,
        *,
        depth: int | None = None,
        long_edge: int | None = None,
        memory_gap: int | Literal["model"] | None = "model",
        max_memory: int | None = 10,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        autocast: torch.dtype | None = None,
    ) -> "AOTSession":
        """One video on its way through this model.

        `depth`: blocks to use (AOST; can be changed between frames). `long_edge`: frames are shrunk to it, never
        enlarged (None: what suits the weights, 1040 for the authors'); smaller is faster. `memory_gap`: a predicted
        frame enters the long-term memory every so many ("model": the variant's own, None: never). `max_memory`:
        long-term frames per group of ten objects; the oldest predicted one goes first, frames with given masks never
        (None: no bound, the paper's policy, whose memory and time grow with the video). `scales`, `flip`: test-time
        augmentation, probabilities averaged. `autocast`: `torch.bfloat16` or `torch.float16` for mixed precision."""
        from tubelet.models.aot.session import AOTSession

        return AOTSession(
            self,
            depth=depth,
            long_edge=long_edge,
            memory_gap=memory_gap,
            max_memory=max_memory,
            scales=scales,
            flip=flip,
            autocast=autocast,
        )

    def check_depth(self, depth: int | None) -> int:
        """`depth`, or the full one for None. Raises `ValueError` if this model does not have it."""
        if depth is None or depth == self.depth:
            return self.depth
        if not self.scalable:
            raise ValueError(f"this model has one depth, {self.depth}; only AOST models take another (got {depth})")
        if not 1 <= depth <= self.depth:
            raise ValueError(f"depth must be 1..{self.depth}, got {depth}")
        return depth


def build_encoder(name: str, *, frozen_norm: bool = True) -> Encoder:
    """The encoders of the paper: `mobilenetv2`, `r50`, `r101`, `swinb` (last stage of the latter three removed)."""
    if name == "mobilenetv2":
        return MobileNetV2(frozen_norm=frozen_norm)
    if name == "swinb":
        return swin("b", stages=3, drop_path=0.3)
    return ResNet(int(name.removeprefix("r")), stages=3, frozen_norm=frozen_norm)


VARIANTS: dict[str, dict] = {
    "aot-t": {"depth": 1, "memory_gap": None},
    "aot-s": {"depth": 2, "memory_gap": None},
    "aot-b": {"depth": 3, "memory_gap": None},
    "aot-l": {"depth": 3},
    "r50-aot-l": {"encoder": "r50", "depth": 3},
    "r101-aot-l": {"encoder": "r101", "depth": 3},
    "swinb-aot-l": {"encoder": "swinb", "depth": 3},
    "aotv2-l": {"depth": 3, "gated": True},
    "r50-aotv2-l": {"encoder": "r50", "depth": 3, "gated": True},
    "swinb-aotv2-l": {"encoder": "swinb", "depth": 3, "gated": True},
    "aost": {"depth": 3, "gated": True, "scalable": True},
    "r50-aost": {"encoder": "r50", "depth": 3, "gated": True, "scalable": True},
    "swinb-aost": {"encoder": "swinb", "depth": 3, "gated": True, "scalable": True},
    "aost-share": {"depth": 3, "gated": True, "scalable": True, "shared": True},
}


def build(name: str, *, frozen_norm: bool = True) -> AOT:
    """A model of the family by name, with random weights. Raises `KeyError` for a name that is not in `VARIANTS`.

    `frozen_norm=False` learns the encoder's batch statistics, for training without ImageNet weights."""
    options = dict(VARIANTS[name])
    encoder = options.pop("encoder", "mobilenetv2")
    return AOT(build_encoder(encoder, frozen_norm=frozen_norm), align_corners=encoder != "swinb", **options)

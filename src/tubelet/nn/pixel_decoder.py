"""The pixel decoder of Mask2Former (Cheng et al., CVPR 2022, section 3.1; multi-scale deformable attention).

Six layers of deformable self-attention over the maps at strides 32, 16 and 8, then one step of a feature pyramid to
stride 4, whose map is what masks are read from.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tubelet.nn.deform import DeformableAttention, Sizes
from tubelet.nn.feed_forward import FeedForward
from tubelet.nn.position import sine_position


class Pyramid(NamedTuple):
    """`mask_features` and `finest`, the map that they are a 1 x 1 projection of, at stride 4; `levels` at strides 32,
    16, 8."""

    mask_features: Float[Tensor, "B C h4 w4"]
    finest: Float[Tensor, "B C h4 w4"]
    levels: list[Float[Tensor, "B C _ _"]]


class DeformableLayer(nn.Module):
    """Deformable self-attention of the pyramid, then an MLP, each with a shortcut and a norm after it."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.attention = DeformableAttention(channels)
        self.attention_norm = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, hidden)

    def forward(
        self,
        x: Float[Tensor, "B S C"],
        position: Float[Tensor, "S C"],
        places: Float[Tensor, "S 2"],
        sizes: Sizes,
    ) -> Float[Tensor, "B S C"]:
        x = self.attention_norm(x + self.attention(x + position, places, x, sizes))
        return self.feed_forward(x)


class PixelDecoder(nn.Module):
    """`widths`: channels of the encoder's maps at strides 4, 8, 16, 32."""

    def __init__(self, widths: tuple[int, ...], channels: int = 256, *, layers: int = 6, hidden: int = 1024):
        super().__init__()
        self.entrances = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, 1), nn.GroupNorm(32, channels)) for width in reversed(widths[1:])
        )
        self.level_embed = nn.Parameter(torch.randn(len(self.entrances), channels))
        self.layers = nn.ModuleList(DeformableLayer(channels, hidden) for _ in range(layers))
        self.lateral = nn.Conv2d(widths[0], channels, 1, bias=False)
        self.lateral_norm = nn.GroupNorm(32, channels)
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.smooth_norm = nn.GroupNorm(32, channels)
        self.mask_features = nn.Conv2d(channels, channels, 1)
        for conv in (m for m in self.modules() if isinstance(m, nn.Conv2d)):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        for entrance in self.entrances:
            nn.init.xavier_uniform_(entrance[0].weight)  # pyright: ignore[reportIndexIssue]

    def forward(self, maps: list[Float[Tensor, "B _ _ _"]]) -> Pyramid:
        """`maps`: the encoder's, at strides 4, 8, 16, 32."""
        return self.pyramid(maps[0], self.attend(maps[:0:-1]))

    def attend(self, maps: list[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B C _ _"]]:
        """The deformable layers over maps at strides 32, 16, 8.

        Tokens, places and offsets are never in half precision: bfloat16 cannot tell the pixels of a larger map apart.
        The matrix products may be, in autocast (5 frames of 384 x 640 in bfloat16 on a CPU: 3.4 -> 2.0 s), but not
        while learning, as in the original."""
        dtype, device = self.level_embed.dtype, maps[0].device.type
        half = torch.is_autocast_enabled(device) and not torch.is_grad_enabled()
        with torch.autocast(device, enabled=half):
            inputs = [entrance(x.to(dtype)).to(dtype) for entrance, x in zip(self.entrances, maps, strict=True)]
            sizes = [(x.shape[2], x.shape[3]) for x in inputs]
            tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in inputs], dim=1)
            position, places = self.positions(sizes), centres(sizes, tokens)
            for layer in self.layers:
                tokens = layer(tokens, position, places, sizes)
            parts = tokens.split([h * w for h, w in sizes], dim=1)
            # Unfolded in this order, the maps are channels last for resizing too: 3 ms; otherwise it copies them: 44.
            return [x.unflatten(1, size).permute(0, 3, 1, 2) for x, size in zip(parts, sizes)]

    def pyramid(self, finest: Float[Tensor, "B _ _ _"], levels: list[Float[Tensor, "B C _ _"]]) -> Pyramid:
        """The encoder's map at stride 4 joins what the layers made of the others."""
        x = self.lateral_norm(self.lateral(finest))
        x = x + F.interpolate(levels[-1], x.shape[2:], mode="bilinear", align_corners=False)
        finest = F.relu(self.smooth_norm(self.smooth(x)))
        return Pyramid(self.mask_features(finest), finest, levels)

    def positions(self, sizes: Sizes) -> Float[Tensor, "S C"]:
        """The sine embedding of each level with the embedding of the level itself."""
        level = self.level_embed
        sines = [sine_position(h, w, level.shape[1], start=1, device=level.device).to(level.dtype) for h, w in sizes]
        return torch.cat([sine + own for sine, own in zip(sines, level)])


def centres(sizes: Sizes, like: Tensor) -> Float[Tensor, "S 2"]:
    """(x, y) of the centres of the pixels of each level, in 0..1 across the image."""

    def axis(n: int) -> Tensor:
        return (torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) / n

    levels = [torch.stack(torch.meshgrid(axis(w), axis(h), indexing="xy"), dim=2).flatten(0, 1) for h, w in sizes]
    return torch.cat(levels)

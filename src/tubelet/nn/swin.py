"""Swin Transformer for dense prediction on any image size (Liu et al., ICCV 2021).

timm's version pads after the cyclic shift, the detection and segmentation code that checkpoints come from pads before
it; the two differ whenever a side is not a multiple of the window, so this one is our own.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from timm.layers.drop import DropPath
from torch import Tensor, nn


def relative_position_index(window: int) -> Int[Tensor, "window2 window2"]:
    """For each pair of places in a window, the row of the bias table of their displacement."""
    place = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
    dy, dx = place[:, :, None] - place[:, None, :] + window - 1
    return dy * (2 * window - 1) + dx


def to_windows(x: Float[Tensor, "B H W C"], window: int) -> Float[Tensor, "windows window2 C"]:
    """Cuts a map whose sides are multiples of the window."""
    b, h, w, c = x.shape
    x = x.view(b, h // window, window, w // window, window, c).transpose(2, 3)
    return x.reshape(-1, window * window, c)


def from_windows(x: Float[Tensor, "windows window2 C"], window: int, h: int, w: int) -> Float[Tensor, "B H W C"]:
    """The inverse of `to_windows`."""
    x = x.view(-1, h // window, w // window, window, window, x.shape[-1]).transpose(2, 3)
    return x.reshape(-1, h, w, x.shape[-1])


class WindowAttention(nn.Module):
    """Self-attention inside each window, with a learned bias per displacement and head."""

    def __init__(self, channels: int, heads: int, window: int):
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(
        self, x: Float[Tensor, "windows window2 C"], mask: Float[Tensor, "n window2 window2"] | None
    ) -> Float[Tensor, "windows window2 C"]:
        """`mask` is added to the scores of window i modulo n."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        index: Tensor = self.relative_position_index  # pyright: ignore[reportAssignmentType]
        bias = self.relative_position_bias_table[index].permute(2, 0, 1)[None]
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(x.shape[0] // mask.shape[0], 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Windowed (or shifted-window) attention and an MLP, pre-norm, each with stochastic depth."""

    def __init__(self, channels: int, heads: int, window: int, *, shift: int, drop_path: float):
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels)
        self.drop_path = DropPath(drop_path)

    def shift_mask(self, h: int, w: int, device: torch.device) -> Float[Tensor, "n window2 window2"]:
        """-100 between places of a window that only the cyclic shift has brought together."""

        def region(n: int) -> Tensor:
            place = torch.arange(n, device=device)
            return (place >= n - self.window).long() + (place >= n - self.shift).long()

        regions = (3 * region(h)[:, None] + region(w)[None]).float()[None, :, :, None]
        of_window = to_windows(regions, self.window).squeeze(2)
        return torch.where(of_window[:, None] == of_window[:, :, None], 0.0, -100.0)

    def attention(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        h, w = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -w % self.window, 0, -h % self.window))
        padded_h, padded_w = x.shape[1:3]
        mask = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
            mask = self.shift_mask(padded_h, padded_w, x.device)
        x = from_windows(self.attn(to_windows(x, self.window), mask), self.window, padded_h, padded_w)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :h, :w]

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        x = x + self.drop_path(self.attention(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Halves a map: the four neighbours are concatenated, column-major, and projected to twice the channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B h w C2"]:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        quarters = (x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2])
        return self.reduction(self.norm(torch.cat(quarters, dim=-1)))


class PatchEmbed(nn.Module):
    """4 x 4 patches, projected and normalised; the image is padded to whole patches."""

    def __init__(self, channels: int):
        super().__init__()
        self.proj = nn.Conv2d(3, channels, 4, stride=4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B h w C"]:
        images = F.pad(images, (0, -images.shape[3] % 4, 0, -images.shape[2] % 4))
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """Blocks at one resolution, then (but for the last stage) the merging that leads to the next."""

    def __init__(self, channels: int, heads: int, window: int, *, drop_path: list[float], downsample: bool):
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(channels, heads, window, shift=window // 2 * (i % 2), drop_path=p) for i, p in enumerate(drop_path)
        )
        self.downsample = PatchMerging(channels) if downsample else None


class SwinTransformer(nn.Module):
    """Swin with a LayerNorm on the output of each stage; stage i has stride 4 * 2**i and channels * 2**i.

    `stages` < 4 leaves the last ones out; the drop-path schedule still runs over all of them."""

    def __init__(
        self,
        channels: int,
        depths: tuple[int, ...],
        heads: tuple[int, ...],
        *,
        window: int = 7,
        drop_path: float = 0.0,
        stages: int = 4,
    ):
        super().__init__()
        self.channels = tuple(channels * 2**i for i in range(stages))
        self.patch_embed = PatchEmbed(channels)
        rates = [drop_path * i / (sum(depths) - 1) for i in range(sum(depths))]
        schedule = [rates[sum(depths[:i]) : sum(depths[: i + 1])] for i in range(stages)]
        self.layers = nn.ModuleList(
            Stage(c, heads[i], window, drop_path=schedule[i], downsample=i < stages - 1)
            for i, c in enumerate(self.channels)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in self.channels)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """The maps of the stages, finest first, each (B, C, H / stride, W / stride)."""
        x, maps = self.patch_embed(images), []
        for stage, norm in zip(self.layers, self.norms, strict=True):
            for block in stage.blocks:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x)
            maps.append(norm(x).permute(0, 3, 1, 2).contiguous())
            if stage.downsample is not None:
                x = stage.downsample(x)  # pyright: ignore[reportCallIssue]
        return maps

    def stem(self) -> list[nn.Module]:
        """Everything up to the first map, without the merging after it: what fine-tuning freezes."""
        return [self.patch_embed, self.layers[0].blocks]  # pyright: ignore[reportReturnType]

"""Image encoders: an image in, a pyramid of maps out, finest first, with `channels` saying how wide each is.

Adapted once, here, so that no model asks which family it holds. `frozen_norm` keeps batch normalisation as fixed
buffers (fine-tuning from ImageNet weights); without it the statistics are learned (training from scratch). The state
dict has the same names either way, but for the counter that only learning needs.
"""

from typing import Any

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.norm_act import FrozenBatchNormAct2d, freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from tubelet.nn.swin import SwinTransformer


class ResNet(nn.Module):
    """ResNet-50 or -101 (v1.5), `stages` of 2..4: strides 4, 8, 16, 32 with 256, 512, 1024, 2048 channels."""

    def __init__(self, depth: int, *, stages: int = 4, frozen_norm: bool = True):
        super().__init__()
        net = timm.create_model(f"resnet{depth}", features_only=True, out_indices=tuple(range(1, stages + 1)))
        self.net: Any = freeze_batch_norm_2d(net) if frozen_norm else net
        self.channels = tuple(256 * 2**i for i in range(stages))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        # Channels last is what convolutions in bfloat16 are fast in: several times on a CPU, and the pooling too.
        x = images.contiguous(memory_format=torch.channels_last)
        x, maps = self.net.maxpool(F.relu(normed(self.net.conv1, self.net.bn1, x), inplace=True)), []
        for i in range(len(self.channels)):
            for block in getattr(self.net, f"layer{i + 1}"):
                x = bottleneck(block, x)
            maps.append(x)
        return maps

    def stem(self) -> list[nn.Module]:
        """Everything up to the first map: what fine-tuning freezes."""
        return [module for name, module in self.net.named_children() if name in ("conv1", "bn1", "layer1")]


def bottleneck(block: Any, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D _ _"]:
    """Three convolutions, each with its norm, and a shortcut: the block of timm, with frozen norms folded."""
    shortcut = x if block.downsample is None else normed(block.downsample[0], block.downsample[1], x)
    x = F.relu(normed(block.conv1, block.bn1, x), inplace=True)
    x = F.relu(normed(block.conv2, block.bn2, x), inplace=True)
    return F.relu(normed(block.conv3, block.bn3, x).add_(shortcut), inplace=True)


def normed(conv: nn.Conv2d, norm: nn.Module, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D _ _"]:
    """A convolution and the norm after it, which is folded into it if it is frozen."""
    if not isinstance(norm, FrozenBatchNorm2d | FrozenBatchNormAct2d):
        return norm(conv(x))
    x = conv._conv_forward(x, *folded(conv, norm))
    return norm.act(x) if isinstance(norm, FrozenBatchNormAct2d) else x  # pyright: ignore[reportCallIssue]


def folded(conv: nn.Conv2d, norm: Any) -> tuple[Float[Tensor, "D C k k"], Float[Tensor, " D"]]:
    """Weight and bias of the convolution with its norm: a frozen norm scales and shifts by constants, and the weights
    are far smaller than the maps. In bfloat16 autocast it also keeps the maps in bfloat16, which the norm's float32
    constants would not. R50, a frame of 384 x 640 on a CPU: 557 -> 483 ms in float32, 765 -> 185 in bfloat16 (with
    channels last). Folding takes 50 ms of these, each time: weights that are kept would be state on the network.
    MobileNetV2, 273 x 481: 64 -> 39 ms in float32, 41 -> 16 in bfloat16."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


class MobileNetV2(nn.Module):
    """MobileNetV2 with its last stage dilated instead of strided: 24, 32, 96 and 1280 channels at 4, 8, 16, 16."""

    channels = (24, 32, 96, 1280)

    def __init__(self, *, frozen_norm: bool = True):
        super().__init__()
        net = timm.create_model("mobilenetv2_100", output_stride=16, num_classes=0, global_pool="")
        self.net: Any = freeze_batch_norm_2d(net) if frozen_norm else net

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        x, maps = normed(self.net.conv_stem, self.net.bn1, images), []
        for i, stage in enumerate(self.net.blocks):
            for block in stage:
                x = inverted_residual(block, x)
            if i in (1, 2, 4):
                maps.append(x)
        return [*maps, normed(self.net.conv_head, self.net.bn2, x)]

    def stem(self) -> list[nn.Module]:
        """Everything up to the first map: what fine-tuning freezes."""
        return [self.net.conv_stem, self.net.bn1, *list(self.net.blocks)[:2]]


def inverted_residual(block: Any, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D _ _"]:
    """A convolution that widens, a depth-wise one and one that narrows, each with its norm: the block of timm, with
    frozen norms folded. The first block of all does not widen."""
    if hasattr(block, "conv_pwl"):
        y = normed(block.conv_pw, block.bn1, x)
        y = normed(block.conv_dw, block.bn2, y)
        y = normed(block.conv_pwl, block.bn3, y)
    else:
        y = normed(block.conv_dw, block.bn1, x)
        y = normed(block.conv_pw, block.bn2, y)
    return x + y if block.has_skip else y


class SmallNet(nn.Module):
    """A few residual blocks at strides 4, 8, 16, 32 with 32, 64, 96, 128 channels: learns from scratch in minutes on a
    CPU, for tests and ablations. Group normalisation, so that small batches do not matter."""

    channels = (32, 64, 96, 128)

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList()
        before = 3
        for i, width in enumerate(self.channels):
            entrance = nn.Conv2d(before, width, 7 if i == 0 else 3, 4 if i == 0 else 2, 3 if i == 0 else 1)
            self.stages.append(nn.Sequential(entrance, nn.GroupNorm(8, width), nn.ReLU(), Block(width), Block(width)))
            before = width

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]

    def stem(self) -> list[nn.Module]:
        """Everything up to the first map."""
        return [self.stages[0]]


class Block(nn.Module):
    """Two convolutions with a shortcut."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.first_norm, self.second_norm = (nn.GroupNorm(8, width) for _ in range(2))

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        y = F.relu(self.first_norm(self.first(x)))
        return F.relu(x + self.second_norm(self.second(y)))


def swin(size: str, *, window: int = 7, stages: int = 4, drop_path: float = 0.0) -> SwinTransformer:
    """Swin-T, -S, -B or -L. Windows are 7 wide in most weights, 12 in those learned at 384 x 384."""
    channels, depths, heads = {
        "t": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
        "s": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
        "b": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
        "l": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
    }[size]
    return SwinTransformer(channels, depths, heads, window=window, drop_path=drop_path, stages=stages)


Encoder = ResNet | MobileNetV2 | SwinTransformer | SmallNet

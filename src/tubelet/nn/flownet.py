"""FlowNetS (Dosovitskiy et al., ICCV 2015): flow between two pictures, by a plain convolutional encoder and decoder."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

# Of each stage, strides 2 to 64: its output channels, in widths, and the side of its first kernel; from the third stage
# on there is one more convolution without stride.
STAGES = ((1, 7), (2, 5), (4, 5), (8, 3), (8, 3), (16, 3))
SLOPE = 0.1  # of the leaky ReLU


def _convolution(inward: int, outward: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inward, outward, kernel, stride=stride, padding=kernel // 2)


def _doubling(inward: int, outward: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inward, outward, 4, stride=2, padding=1, bias=False)


class FlowEncoder(nn.Module):
    """The contracting half. Two pictures, the new one first, become five maps. `width`: channels of the first stage."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.channels = tuple(width * times for times, _ in STAGES[1:])
        self.stages, inward = nn.ModuleList(), 6
        for i, (outward, kernel) in enumerate(zip((width, *self.channels), (kernel for _, kernel in STAGES))):
            stage = [_convolution(inward, outward, kernel, 2)]
            if i >= 2:
                stage.append(_convolution(outward, outward, 3, 1))
            self.stages.append(nn.ModuleList(stage))
            inward = outward

    def forward(self, pair: Float[Tensor, "B 6 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Maps at strides 4, 8, 16, 32, 64 with `channels` channels. Sizes that do not divide are rounded up."""
        maps, x = [], pair
        for stage in self.stages:
            for convolution in stage:  # pyright: ignore[reportGeneralTypeIssues]
                x = F.leaky_relu(convolution(x), SLOPE, inplace=True)
            maps.append(x)
        return maps[1:]


class FlowDecoder(nn.Module):
    """The expanding half: a flow at every level, coarse to fine, each enlarged and given to the next.

    `top`: channels of the coarsest map; `skips`: those of the finer ones; `widths`: what the map from below is brought
    to at each of them."""

    def __init__(self, top: int, skips: tuple[int, ...], widths: tuple[int, ...]):
        super().__init__()
        inward = [top, *(skip + width + 2 for skip, width in zip(skips, widths, strict=True))]
        self.predict = nn.ModuleList(nn.Conv2d(n, 2, 3, padding=1, bias=False) for n in inward)
        self.enlarge_flow = nn.ModuleList(_doubling(2, 2) for _ in skips)
        self.enlarge = nn.ModuleList(_doubling(n, width) for n, width in zip(inward, widths, strict=False))

    def forward(self, maps: list[Float[Tensor, "B _ _ _"]]) -> Float[Tensor, "B 2 _ _"]:
        """`maps` from coarse to fine; the flow at the size of the last, (x, y) in its pixels."""
        x, *finer = maps
        for i, skip in enumerate(finer):
            h, w = skip.shape[2:]
            flow = self.enlarge_flow[i](self.predict[i](x))[..., :h, :w]
            x = F.leaky_relu(self.enlarge[i](x)[..., :h, :w], SLOPE)
            x = torch.cat((skip, x, flow), dim=1)
        return self.predict[-1](x)

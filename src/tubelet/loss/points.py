"""Masks at sampled points instead of at every pixel (PointRend, CVPR 2020; Mask2Former, section 3.3).

A point is (x, y), each 0..1, from the outer edge of the top left pixel to the outer edge of the bottom right one: it is
the same place in a mask and in logits of a quarter of its size, if both cover the same (padded) image.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


class Points(NamedTuple):
    """How many points of a mask in a frame the losses look at, and how those are chosen (see `uncertain_points`)."""

    number: int = 12544
    oversample: int = 3
    important: float = 0.75


POINTS = Points()


def uniform_points(
    *shape: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> Float[Tensor, "*shape 2"]:
    """Points drawn uniformly, (*shape, 2). They are drawn where the generator lives, then moved to `device`."""
    home = device if generator is None else generator.device
    return torch.rand(*shape, 2, generator=generator, device=home).to(device)


@torch.no_grad()
def uncertain_points(
    logits: Float[Tensor, "R h w"],
    number: int = POINTS.number,
    *,
    oversample: int = POINTS.oversample,
    important: float = POINTS.important,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "R {number} 2"]:
    """`number` points for each map: the share `important` where the map is least certain, the rest uniform.

    The uncertain ones are those of smallest |logit| among `oversample` times `number` uniform points."""
    rows, chosen = len(logits), int(important * number)
    candidates = uniform_points(rows, oversample * number, generator=generator, device=logits.device)
    certainty = sample_points(logits, candidates).abs()
    nearest = certainty.topk(chosen, dim=1, largest=False, sorted=False).indices
    uncertain = candidates.gather(1, nearest[:, :, None].expand(-1, -1, 2))
    rest = uniform_points(rows, number - chosen, generator=generator, device=logits.device)
    return torch.cat((uncertain, rest), dim=1)


def sample_points(
    maps: Float[Tensor, "R h w"] | Bool[Tensor, "R h w"], points: Float[Tensor, "R P 2"]
) -> Float[Tensor, "R P"]:
    """Each map at its own points, bilinear, in float32 or better."""
    return _grid_sample(maps[:, None], points[:, None])[:, 0, 0]


def sample_shared(
    maps: Float[Tensor, "R h w"] | Bool[Tensor, "R h w"], points: Float[Tensor, "P 2"]
) -> Float[Tensor, "R P"]:
    """All maps at the same points, bilinear, in float32 or better."""
    return _grid_sample(maps[None], points[None, None])[0, :, 0]


def _grid_sample(maps: Tensor, points: Tensor) -> Tensor:
    # "border", as when masks are resized: with zeros beyond the edge, every logit near it would look uncertain.
    maps = at_least_float32(maps)
    grid = 2 * points.to(maps.dtype) - 1
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)


def at_least_float32(x: Tensor) -> Tensor:
    """Booleans and half precision become float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))

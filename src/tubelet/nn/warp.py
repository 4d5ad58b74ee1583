"""Pictures pulled along flow."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Grid = Literal["exact", "authors"]


def resize_flow(flow: Float[Tensor, "N 2 _ _"], size: tuple[int, int]) -> Float[Tensor, "N 2 h w"]:
    """A flow at another `size` (rows, columns) of the same picture, in pixels of that size: bilinear, and both
    components longer by the ratio of the columns."""
    if flow.shape[2:] == size:
        return flow
    return F.interpolate(flow, size, mode="bilinear", align_corners=False) * (size[1] / flow.shape[3])


def warp(x: Float[Tensor, "N C h w"], flow: Float[Tensor, "N 2 h w"], *, grid: Grid = "exact") -> Tensor:
    """At every place p what `x` has at p + flow(p), bilinear, the nearest of the border outside; flow is (x, y) in
    pixels of `x`.

    `grid="authors"` is how MPVSS samples: column c of W is read at c (W - 1) / W, rows likewise, so that a flow of zero
    is not the identity but shrinks the picture by a pixel towards its top left corner. Weights that were trained so
    need it."""
    h, w = x.shape[2:]
    rows = torch.arange(h, device=x.device, dtype=flow.dtype)[:, None]
    columns = torch.arange(w, device=x.device, dtype=flow.dtype)
    shift = 0.5 if grid == "exact" else 0.0
    places = torch.stack(
        ((columns + flow[:, 0] + shift) * (2 / w) - 1, (rows + flow[:, 1] + shift) * (2 / h) - 1), dim=3
    )
    return F.grid_sample(x, places, mode="bilinear", padding_mode="border", align_corners=grid == "authors")

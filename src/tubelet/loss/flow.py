"""How far flow is from the truth."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

STRIDE = 8  # of the flows, in pixels of the truth


def endpoint_error(flows: Float[Tensor, "B Q 2 h8 w8"], truth: Float[Tensor, "B 2 H W"]) -> Float[Tensor, ""]:
    """The mean distance of `flows`, in pixels of stride 8, from the `truth`, in pixels, NaN where it is not known
    (Dosovitskiy et al., ICCV 2015, section 3).

    The truth is averaged over a place of the flows; places of which less than half is known do not count. Flows may
    reach further to the right and below (padding); nothing known at all gives 0."""
    h, w = flows.shape[3] * STRIDE, flows.shape[4] * STRIDE
    truth = F.pad(truth, (0, w - truth.shape[3], 0, h - truth.shape[2]), value=float("nan"))
    known = F.avg_pool2d((~truth.isnan().any(1, keepdim=True)).to(flows), STRIDE)
    mean = F.avg_pool2d(truth.nan_to_num(), STRIDE) / known.clamp(min=1e-6) / STRIDE
    counts = (known > 0.5).to(flows)[:, None]
    distance = ((flows - mean[:, None]).square().sum(2, keepdim=True) + 1e-6).sqrt()
    return (distance * counts).sum() / (counts.sum() * flows.shape[1]).clamp(min=1)

"""Losses on label maps: one class (or object) per pixel. All samples of a batch at once."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tubelet.types import VOID


def segmentation_loss(
    logits: Float[Tensor, "B N H W"],
    ids: Int[Tensor, "B H W"],
    objects: Int[Tensor, " B"],
    *,
    hard_fraction: float = 1.0,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """(cross-entropy, Jaccard) of AOT, of each sample; sample b has the channels 0..objects[b], the others do not enter
    its softmax."""
    log_p = without_absent(logits.float(), objects).log_softmax(1).flatten(2)
    ids = ids.long().flatten(1)
    return bootstrapped_cross_entropy(log_p, ids, hard_fraction=hard_fraction), soft_jaccard(log_p, ids)


def without_absent(logits: Float[Tensor, "B N H W"], objects: Int[Tensor, " B"]) -> Float[Tensor, "B N H W"]:
    """Minus infinity in the channels past the objects of a sample."""
    absent = torch.arange(logits.shape[1], device=logits.device) > objects[:, None]
    return logits.masked_fill(absent[:, :, None, None], float("-inf"))


def bootstrapped_cross_entropy(
    log_p: Float[Tensor, "B N n"], ids: Int[Tensor, "B n"], *, hard_fraction: float = 1.0
) -> Float[Tensor, " B"]:
    """Of each sample the mean over its `hard_fraction` of hardest pixels; void pixels (255) do not count.

    `log_p`: log probabilities."""
    void = ids == VOID
    per_pixel = -log_p.gather(1, ids.masked_fill(void, 0)[:, None])[:, 0].masked_fill(void, 0)
    valid = (~void).sum(1)
    if hard_fraction >= 1:
        return per_pixel.sum(1) / valid.clamp(min=1)
    kept = (hard_fraction * valid.double()).long().clamp(min=1)
    hardest = per_pixel.topk(int(kept.max()), dim=1).values
    counts = torch.arange(hardest.shape[1], device=ids.device) < kept[:, None]
    return (hardest * counts).sum(1) / kept


def soft_jaccard(log_p: Float[Tensor, "B N n"], ids: Int[Tensor, "B n"]) -> Float[Tensor, " B"]:
    """1 - soft IoU of the class probabilities, averaged over the classes present in a sample, background included.

    0 where every pixel is void."""
    valid = (ids != VOID).to(log_p)
    index = ids.masked_fill(ids == VOID, 0)
    p = log_p.exp()
    nothing = p.new_zeros(p.shape[:2])
    overlap = nothing.scatter_add(1, index, p.gather(1, index[:, None])[:, 0] * valid)
    truth = nothing.scatter_add(1, index, valid)
    union = (p * valid[:, None]).sum(2) + truth - overlap
    loss = 1 - (overlap + 1e-6) / (union + 1e-6)
    present = truth > 0
    return (loss * present).sum(1) / present.sum(1).clamp(min=1)

"""Losses on label maps: one class (or object) per pixel."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tubelet.types import VOID


def bootstrapped_cross_entropy(
    logits: Float[Tensor, "N H W"], ids: Int[Tensor, "H W"], *, hard_fraction: float = 1.0
) -> Float[Tensor, ""]:
    """Mean cross-entropy over the hardest `hard_fraction` of the pixels; void pixels (255) do not count."""
    per_pixel = F.cross_entropy(logits[None], ids[None], ignore_index=VOID, reduction="none").flatten()
    valid = max(1, int((ids != VOID).sum()))
    if hard_fraction >= 1:
        return per_pixel.sum() / valid
    return per_pixel.topk(max(1, int(hard_fraction * valid))).values.mean()


def soft_jaccard(logits: Float[Tensor, "N H W"], ids: Int[Tensor, "H W"]) -> Float[Tensor, ""]:
    """1 - soft IoU of the class probabilities, averaged over the classes present in `ids`, background included.

    0 where every pixel is void."""
    valid = (ids != VOID).flatten()
    probability = logits.softmax(0).flatten(1)[:, valid]
    truth = F.one_hot(ids.flatten()[valid], logits.shape[0]).T.to(probability.dtype)
    overlap = (probability * truth).sum(1)
    union = probability.sum(1) + truth.sum(1) - overlap
    present: Bool[Tensor, " N"] = truth.any(1)
    loss = 1 - (overlap + 1e-6) / (union + 1e-6)
    return (loss * present).sum() / present.sum().clamp(min=1)


def segmentation_loss(
    logits: Float[Tensor, "B N H W"],
    ids: Int[Tensor, "B H W"],
    objects: Int[Tensor, " B"],
    *,
    hard_fraction: float = 1.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """(cross-entropy, Jaccard) of AOT, each the mean over samples; sample b has the channels 0..objects[b]."""
    # `unbind` and not `logits[b]`, whose gradient is a zero batch per sample.
    pairs = [(x[: n + 1].float(), y.long()) for x, y, n in zip(logits.unbind(), ids.unbind(), objects.tolist())]
    entropy = [bootstrapped_cross_entropy(x, y, hard_fraction=hard_fraction) for x, y in pairs]
    jaccard = [soft_jaccard(x, y) for x, y in pairs]
    return torch.stack(entropy).mean(), torch.stack(jaccard).mean()

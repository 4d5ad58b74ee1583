"""Which query answers for which instance: the Hungarian matching of Mask2Former, on tubes.

A tube is the mask of one instance in every frame of a clip, empty where the instance is absent. One frame is a tube of
length 1. The matching works on any subsets of frames (the sub-clips of SyncVIS, section 3.4): masks are sampled and
compared once per frame, and the cost of a sub-clip is put together from the sums of its frames.

An instance belongs to a sub-clip if at least one of its frames shows it. Others are not matched there, so that their
query learns "no object" from that sub-clip.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tubelet.loss.points import POINTS, at_least_float32, sample_shared, uniform_points


class Weights(NamedTuple):
    """The weights of the three terms, in the matching and in the losses, and of the class "no object"."""

    classes: float = 2.0
    bce: float = 5.0
    dice: float = 5.0
    no_object: float = 0.1


class Match(NamedTuple):
    """Query `queries[i]` answers for instance `truths[i]`; on the CPU, in the order of the instances."""

    queries: Int[Tensor, " M"]
    truths: Int[Tensor, " M"]


WEIGHTS = Weights()


def match(
    class_logits: Float[Tensor, "Q K1"],
    mask_logits: Float[Tensor, "Q T h w"],
    classes: Int[Tensor, " N"],
    masks: Bool[Tensor, "N T H W"],
    *,
    weights: Weights = WEIGHTS,
    points: int = POINTS.number,
    generator: torch.Generator | None = None,
    name: str = "",
) -> Match:
    """The cheapest assignment of the instances of one clip to different queries (Mask2Former, section 3.3).

    The cost is `classes` * -p(class) + `bce` * cross-entropy + `dice` * dice loss of the tube, on `points` uniform
    points that all masks and all frames share. The last of the K1 classes is "no object". Masks and logits cover the
    same padded image; sizes may differ. Instances that no frame shows are left out, and, if there are more instances
    than queries, the dearest ones. In float32, also under autocast.

    Raises `FloatingPointError`, with the `name` of the clip, if the cost is not finite because logits are NaN or
    infinite; `ValueError` if a class is not in 0..K-1."""
    frames = torch.arange(mask_logits.shape[1])[None]
    options = {"weights": weights, "points": points, "generator": generator, "name": name}
    return match_subclips(class_logits, mask_logits, classes, masks, frames, **options)[0]


@torch.no_grad()
def match_subclips(
    class_logits: Float[Tensor, "Q K1"],
    mask_logits: Float[Tensor, "Q T h w"],
    classes: Int[Tensor, " N"],
    masks: Bool[Tensor, "N T H W"],
    frames: Int[Tensor, "S F"],
    *,
    weights: Weights = WEIGHTS,
    points: int = POINTS.number,
    generator: torch.Generator | None = None,
    name: str = "",
) -> list[Match]:
    """`match` for each of S sub-clips of a clip, independently; sub-clip s has the frames `frames[s]`.

    All sub-clips share the points, which are sampled once. Raises as `match`."""
    check_classes(classes, class_logits.shape[1] - 1, name)
    frames = frames.to(masks.device)
    shown = masks.flatten(2).any(2)[:, frames].any(2).T.cpu()
    place = uniform_points(points, generator=generator, device=mask_logits.device)
    with torch.autocast(mask_logits.device.type, enabled=False):
        sums = pair_sums(_sample_tubes(mask_logits, place), _sample_tubes(masks, place))
        cost = weights.classes * class_cost(class_logits, classes) + mask_costs(sums, frames, weights)
    cost = cost.cpu()
    if not cost.isfinite().all():
        raise FloatingPointError(_not_finite(class_logits, mask_logits, name))
    return [assign(cost[s], shown[s]) for s in range(len(frames))]


def check_classes(classes: Int[Tensor, " N"], number: int, name: str) -> None:
    """Raises `ValueError` unless all classes are in 0..number - 1."""
    wrong = classes[(classes < 0) | (classes >= number)].tolist()
    if wrong:
        raise ValueError(
            f"{name or 'a clip'} has the classes {wrong}, but those of the logits are 0..{number - 1} and the last "
            f'logit is "no object"; number the classes from 0, or give the model as many as the data set has'
        )


def class_cost(class_logits: Float[Tensor, "Q K1"], classes: Int[Tensor, " N"]) -> Float[Tensor, "Q N"]:
    """-p(class of the instance), for each query and instance; softmax over all K1 classes."""
    return -at_least_float32(class_logits).softmax(1)[:, classes.long()]


class PairSums(NamedTuple):
    """Sums over the `points` sampled in a frame, for each frame, query and instance."""

    entropy: Float[Tensor, "T Q N"]
    overlap: Float[Tensor, "T Q N"]
    predicted: Float[Tensor, "T Q"]
    true: Float[Tensor, "T N"]
    points: int


def pair_sums(logits: Float[Tensor, "Q T P"], truth: Float[Tensor, "N T P"]) -> PairSums:
    """What cross-entropy and dice loss of every query with every instance need, frame by frame."""
    logits, truth = logits.transpose(0, 1), truth.transpose(0, 1).to(logits.dtype)
    probability, across = logits.sigmoid(), truth.transpose(1, 2)
    # -y log p - (1 - y) log(1 - p) = softplus(x) - x y, hence one product of matrices instead of two.
    entropy = F.softplus(logits).sum(2)[:, :, None] - logits @ across
    return PairSums(entropy, probability @ across, probability.sum(2), truth.sum(2), logits.shape[2])


def mask_costs(sums: PairSums, frames: Int[Tensor, "S F"], weights: Weights = WEIGHTS) -> Float[Tensor, "S Q N"]:
    """The weighted cross-entropy (mean over points and frames) and dice loss of the tubes of each sub-clip."""
    entropy, overlap, predicted, true = (part[frames].sum(1) for part in sums[:4])
    entropy = entropy / (sums.points * frames.shape[1])
    return weights.bce * entropy + weights.dice * dice_loss(overlap, predicted[:, :, None], true[:, None])


def dice_loss(overlap: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
    """1 - the dice coefficient, from the sums of p * y, of p and of y; the 1 makes two empty masks alike."""
    return 1 - (2 * overlap + 1) / (predicted + true + 1)


def assign(cost: Float[Tensor, "Q N"], shown: Bool[Tensor, " N"]) -> Match:
    """The assignment of least total cost, of the instances that are `shown`."""
    candidates = shown.nonzero()[:, 0]
    rows, queries = linear_sum_assignment(cost.T[candidates].numpy())
    return Match(torch.from_numpy(queries), candidates[torch.from_numpy(rows)])


def _sample_tubes(tubes: Tensor, points: Float[Tensor, "P 2"]) -> Float[Tensor, "_ T P"]:
    return sample_shared(tubes.flatten(0, 1), points).unflatten(0, tubes.shape[:2])


def _not_finite(class_logits: Tensor, mask_logits: Tensor, name: str) -> str:
    wrong = [
        f"{(~logits.isfinite()).sum()} of {logits.numel()} {kind} logits"
        for kind, logits in (("class", class_logits), ("mask", mask_logits))
    ]
    return (
        f"the matching cost of {name or 'a clip'} is not finite: {wrong[0]} and {wrong[1]} are NaN or infinite. "
        f"Look at that clip, lower the learning rate, or train in bf16 or float32 instead of fp16"
    )

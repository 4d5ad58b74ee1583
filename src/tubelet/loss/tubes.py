"""The losses of the Mask2Former family on tubes: class, cross-entropy and dice of the matched masks.

Truth is given as lists with one entry per clip: `classes[b]` (N,) in 0..K-1 and `masks[b]` (N, T, H, W). All masks of a
batch have one size (H, W), that of the padded image, which the mask logits (h, w) cover too.

- `tube_loss`: Mask2Former-VIS, and with `joined` the clip head of VITA.
- `frame_loss`: each frame is an image of its own (the frame queries of VITA, CTVIS, SyncVIS).
- `deep_supervision`: either, on the outputs of every decoder layer, each matched anew.
- `subclip_losses`: what both are made of, for many subsets of the frames at once; SyncVIS uses it in `subclips.py`.

An instance belongs to a set of frames if one of them shows it (see `match.py`); where it is absent from a frame of that
set, its mask there is empty.

Letters of this package beside those of `types.py`: S sub-clips of F frames, P points, R rows (one mask in one frame),
M matched pairs of a query and an instance, K1 = K + 1 classes, of which the last is "no object".
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tubelet.loss.match import WEIGHTS, Match, Weights, dice_loss, match_subclips
from tubelet.loss.points import POINTS, Points, at_least_float32, sample_points, uncertain_points

# Who draws the points: torch's own generator, one for the batch, or one for each clip. With one for each, a clip meets
# the same chance however a batch is divided among processes.
Chance = torch.Generator | Sequence[torch.Generator] | None


def per_clip(generator: Chance, clips: int) -> Sequence[torch.Generator | None]:
    """A generator for each clip."""
    return generator if isinstance(generator, Sequence) else [generator] * clips


def tube_loss(
    class_logits: Float[Tensor, "B Q K1"],
    mask_logits: Float[Tensor, "B Q T h w"],
    classes: list[Int[Tensor, "_"]],
    masks: list[Bool[Tensor, "_ T _ _"]],
    *,
    joined: bool = False,
    weights: Weights = WEIGHTS,
    points: Points = POINTS,
    num_masks: int | float | None = None,
    generator: Chance = None,
    names: Sequence[str] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """`class`, `bce` and `dice`, weighted, of clips whose queries are tubes. The last of the K1 classes is "no object".

    `class` is the cross-entropy of all queries, where those without an instance count `weights.no_object`. `bce` and
    `dice` look at `points` of each instance in each frame, drawn anew with every call. `joined` False: each frame is a
    mask, whose losses are summed over frames (Mask2Former-VIS; they grow with T). `joined` True: the points of all
    frames make one mask per instance (VITA). Both are summed over instances and divided by `num_masks`: by default
    the number of matched instances in the batch, averaged over processes, at least 1. (VITA stacks the outputs of
    three layers as further clips of the batch, with the truth repeated; they count as such.)

    In float32, also under autocast. Raises `FloatingPointError`, with the clip's entry of `names`, if logits are not
    finite; `ValueError` if truth and logits do not fit."""
    options = {"joined": joined, "weights": weights, "points": points, "num_masks": num_masks}
    frames = torch.arange(mask_logits.shape[2])[None]
    losses = subclip_losses(
        class_logits, mask_logits, classes, masks, frames, **options, generator=generator, names=names
    )
    return {name: loss[0] for name, loss in losses.items()}


def frame_loss(
    class_logits: Float[Tensor, "B T Q K1"],
    mask_logits: Float[Tensor, "B T Q h w"],
    classes: list[Int[Tensor, "_"]],
    masks: list[Bool[Tensor, "_ T _ _"]],
    *,
    weights: Weights = WEIGHTS,
    points: Points = POINTS,
    num_masks: int | float | None = None,
    generator: Chance = None,
    names: Sequence[str] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """`tube_loss` of each frame as a clip of its own, matched to the instances that this frame shows.

    `num_masks` counts an instance once for each frame that shows it."""
    check_truth(mask_logits.transpose(1, 2), classes, masks)
    batch, time = mask_logits.shape[:2]
    named = names or [f"clip {b} of the batch" for b in range(batch)]
    return tube_loss(
        class_logits.flatten(0, 1),
        mask_logits.flatten(0, 1)[:, :, None],
        [c for c in classes for _ in range(time)],
        [frame for m in masks for frame in m.split(1, dim=1)],
        weights=weights,
        points=points,
        num_masks=num_masks,
        generator=[g for g in generator for _ in range(time)] if isinstance(generator, Sequence) else generator,
        names=[f"{name}, frame {t}" for name in named for t in range(time)],
    )


def deep_supervision(
    outputs: Sequence[tuple[Tensor, Tensor]], loss: Callable[[Tensor, Tensor], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """`loss(class_logits, mask_logits)` of each output: those of the last under their own names, those of layer i
    before it as `name.i`. The total is the sum of all."""
    *early, last = outputs
    losses = {f"{name}.{i}": x for i, output in enumerate(early) for name, x in loss(*output).items()}
    return {**loss(*last), **losses}


def subclip_losses(
    class_logits: Float[Tensor, "B Q K1"],
    mask_logits: Float[Tensor, "B Q T h w"],
    classes: list[Int[Tensor, "_"]],
    masks: list[Bool[Tensor, "_ T _ _"]],
    frames: Int[Tensor, "S F"],
    *,
    joined: bool = False,
    weights: Weights = WEIGHTS,
    points: Points = POINTS,
    num_masks: int | float | None = None,
    generator: Chance = None,
    names: Sequence[str] | None = None,
) -> dict[str, Float[Tensor, " S"]]:
    """`tube_loss` of the frames `frames[s]` alone, for each s; each is matched and normalised independently.

    A query in a frame is sampled once for an instance, however many sub-clips pair the two, so that sub-clips which
    agree on the match cost little more than the clip. Several processes must pass the same number S."""
    check_truth(mask_logits, classes, masks)
    names = names or [f"clip {b} of the batch" for b in range(len(masks))]
    options, chance = {"weights": weights, "points": points.number}, per_clip(generator, len(masks))
    clips = zip(class_logits, mask_logits, classes, masks, names, chance, strict=True)
    tubes = gather_tubes(
        [match_subclips(c, m, k, y, frames, **options, name=name, generator=g) for c, m, k, y, name, g in clips],
        [len(m) for m in masks],
    )
    bce, dice = mask_losses(mask_logits, torch.cat(masks), tubes, frames, joined, points, chance)
    belongs = tubes.subclip.to(bce.device) == torch.arange(len(frames), device=bce.device)[:, None]
    if num_masks is None:
        count = average_over_processes(belongs.sum(1).to(bce.dtype)).clamp(min=1)
    else:
        count = bce.new_full((len(frames),), num_masks)
    return {
        "class": weights.classes * class_losses(class_logits, classes, tubes, len(frames), weights.no_object),
        "bce": weights.bce * (belongs * bce).sum(1) / count,
        "dice": weights.dice * (belongs * dice).sum(1) / count,
    }


class Tubes(NamedTuple):
    """The M matched pairs of all sub-clips of a batch; `truth` counts the instances through the batch. On the CPU."""

    subclip: Int[Tensor, " M"]
    clip: Int[Tensor, " M"]
    query: Int[Tensor, " M"]
    truth: Int[Tensor, " M"]


def gather_tubes(matches: list[list[Match]], instances: list[int]) -> Tubes:
    """The table of `matches[clip][subclip]`, where clip b has `instances[b]` instances."""
    parts, first = [], 0
    for clip, (found, number) in enumerate(zip(matches, instances, strict=True)):
        for subclip, (queries, truths) in enumerate(found):
            place = torch.tensor([subclip, clip]).expand(len(queries), 2)
            parts.append(torch.cat((place, queries[:, None], first + truths[:, None]), dim=1))
        first += number
    return Tubes(*torch.cat(parts).unbind(1))


def class_losses(
    class_logits: Float[Tensor, "B Q K1"],
    classes: list[Int[Tensor, "_"]],
    tubes: Tubes,
    subclips: int,
    no_object: float,
) -> Float[Tensor, " {subclips}"]:
    """Cross-entropy of each sub-clip, a mean weighted 1 for queries with an instance and `no_object` for others; the
    sum of the weights is averaged over processes, as `num_masks` is, so that two are one with the doubled batch."""
    batch, queries, k1 = class_logits.shape
    truth = torch.cat(classes).long()
    target = truth.new_full((batch, queries, subclips), k1 - 1)
    _, clip, query, instance = (x.to(truth.device) for x in tubes)
    target[clip, query, tubes.subclip.to(truth.device)] = truth[instance]
    entropy = -at_least_float32(class_logits).log_softmax(2).gather(2, target)
    weight = torch.where(target == k1 - 1, no_object, 1.0).to(entropy)
    return (weight * entropy).sum((0, 1)) / average_over_processes(weight.sum((0, 1)))


def mask_losses(
    mask_logits: Float[Tensor, "B Q T h w"],
    masks: Bool[Tensor, "_ T _ _"],
    tubes: Tubes,
    frames: Int[Tensor, "S F"],
    joined: bool,
    points: Points,
    chance: Sequence[torch.Generator | None],
) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
    """(cross-entropy, dice loss) of each matched tube on the frames of its sub-clip; `masks`: of all clips."""
    _, queries, time = mask_logits.shape[:3]
    clip = torch.zeros(len(masks), dtype=torch.long).index_copy(0, tubes.truth, tubes.clip)
    # Sub-clips share frames and mostly agree on the query of an instance: each such row is sampled once.
    keys = (tubes.truth * queries + tubes.query)[:, None] * time + frames.cpu()[tubes.subclip]
    rows, place = keys.unique(return_inverse=True)
    t, query, truth = rows % time, rows // time % queries, rows // (time * queries)
    t, query, truth, clip, place = (x.to(mask_logits.device) for x in (t, query, truth, clip[truth], place))
    counts = clip.bincount(minlength=len(chance)).tolist()  # rows are in the order of the clips
    parts = zip(mask_logits[clip, query, t].split(counts), masks[truth, t].split(counts), chance, strict=True)
    sums = zip(*(row_sums(x, y, points, generator) for x, y, generator in parts))
    entropy, *shares = (torch.cat(values)[place] for values in sums)
    if joined:
        return entropy.mean(1), dice_loss(*(x.sum(1) for x in shares))
    return entropy.sum(1), dice_loss(*shares).sum(1)


class RowSums(NamedTuple):
    """Of one mask in one frame, over its points: the mean cross-entropy, and the sums of p * y, p and y."""

    entropy: Float[Tensor, " R"]
    overlap: Float[Tensor, " R"]
    predicted: Float[Tensor, " R"]
    true: Float[Tensor, " R"]


def row_sums(
    logits: Float[Tensor, "R h w"],
    truth: Bool[Tensor, "R H W"],
    points: Points = POINTS,
    generator: torch.Generator | None = None,
) -> RowSums:
    """Samples predicted and true masks at the same points, most of them where the prediction is uncertain."""
    place = uncertain_points(
        logits, points.number, oversample=points.oversample, important=points.important, generator=generator
    )
    x = sample_points(logits, place)
    y = sample_points(truth, place).to(x.dtype)
    entropy = F.binary_cross_entropy_with_logits(x, y, reduction="none").mean(1)
    probability = x.sigmoid()
    return RowSums(entropy, (probability * y).sum(1), probability.sum(1), y.sum(1))


def average_over_processes(count: Float[Tensor, " S"]) -> Float[Tensor, " S"]:
    """The mean over the processes of a distributed run, or `count` itself."""
    if not (dist.is_available() and dist.is_initialized()):
        return count
    total = count.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def check_truth(mask_logits: Tensor, classes: list[Tensor], masks: list[Tensor]) -> None:
    """Raises `ValueError` unless there are classes and masks for each clip, of as many frames, all of one size."""
    batch, _, time = mask_logits.shape[:3]
    if not len(classes) == len(masks) == batch:
        raise ValueError(
            f"the logits are of {batch} clips, but there are classes of {len(classes)} and masks of {len(masks)}; "
            f"give one entry per clip, an empty tensor where a clip has no instance"
        )
    wrong = [(len(c), *m.shape) for c, m in zip(classes, masks) if m.shape[:2] != (len(c), time)]
    if wrong:
        n, *shape = wrong[0]
        raise ValueError(f"a clip has {n} classes and masks of shape {shape}; expected ({n}, {time}, H, W)")
    sizes = {tuple(m.shape[2:]) for m in masks}
    if len(sizes) > 1:
        raise ValueError(f"the masks of a batch have the sizes {sorted(sizes)}; pad all to that of the padded images")

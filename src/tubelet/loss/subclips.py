"""The synchronized embedding optimisation of SyncVIS (section 3.4): the tube loss on parts of a clip.

The predictions of a clip of T frames are cut into sub-clips of a few frames, and each is matched and optimised by
itself. What the paper leaves open, and what is done here:

- Which sub-clips: equation 4 and figure 2 take all combinations of frames, not only neighbours. So does the default.
- Equation 4 sums over sub-clips; here it is their mean, so that the weights against other losses do not depend on T.
- An instance that no frame of a sub-clip shows is no part of it, and its query has "no object" as the class there.
- Only masks are cut: a query has one class per clip, which every sub-clip supervises.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tubelet.loss.match import WEIGHTS, Weights
from tubelet.loss.points import POINTS, Points
from tubelet.loss.tubes import Chance, subclip_losses


def subclips(
    frames: int,
    length: int,
    *,
    choose: Literal["all", "adjacent"] = "all",
    most: int | None = None,
    generator: torch.Generator | None = None,
) -> list[tuple[int, ...]]:
    """The sub-clips of `length` frames of a clip, each a rising tuple of frame numbers, in lexicographic order.

    `choose`: `all` combinations of frames, or only windows of `adjacent` ones. If there are more than `most`, that
    many of them are drawn, without repetition. Raises `ValueError` if a clip has no such sub-clip."""
    if not 1 <= length <= frames:
        raise ValueError(f"a sub-clip of {length} frames cannot be cut from a clip of {frames}; give 1 to {frames}")
    if most is not None and most < 1:
        raise ValueError(f"at most {most} sub-clips leave nothing to learn from; give 1 or more, or None for all")
    if choose == "all":
        found = list(combinations(range(frames), length))
    else:
        found = [tuple(range(first, first + length)) for first in range(frames - length + 1)]
    if most is None or len(found) <= most:
        return found
    home = "cpu" if generator is None else generator.device
    drawn = torch.randperm(len(found), generator=generator, device=home)[:most]
    return [found[i] for i in sorted(drawn.tolist())]


def synchronized_loss(
    class_logits: Float[Tensor, "B Q K1"],
    mask_logits: Float[Tensor, "B Q T h w"],
    classes: list[Int[Tensor, "_"]],
    masks: list[Bool[Tensor, "_ T _ _"]],
    *,
    length: int,
    choose: Literal["all", "adjacent"] = "all",
    most: int | None = None,
    joined: bool = False,
    weights: Weights = WEIGHTS,
    points: Points = POINTS,
    num_masks: int | float | None = None,
    generator: Chance = None,
    names: Sequence[str] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """The mean of `tube_loss` over the sub-clips of `length` frames (the video terms of equations 4 and 5).

    The paper takes 3 frames for YouTube-VIS and 2 for OVIS. With `length` T it is `tube_loss` itself, to the bit.
    `num_masks`, if given, holds for every sub-clip; by default each counts its own instances. All clips of the batch
    are cut alike. For other arguments, and what is raised, see `tube_loss` and `subclips`."""
    shared = None if isinstance(generator, Sequence) else generator  # the same for all clips, so no clip's own
    cut = subclips(mask_logits.shape[2], length, choose=choose, most=most, generator=shared)
    options = {"joined": joined, "weights": weights, "points": points, "num_masks": num_masks}
    losses = subclip_losses(
        class_logits, mask_logits, classes, masks, torch.tensor(cut), **options, generator=generator, names=names
    )
    return {name: loss.mean() for name, loss in losses.items()}

"""The sequential training of the AOT family (paper, sections 4.1, 4.3 and 5): `AOT.loss` step by step."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tubelet.loss.masks import segmentation_loss
from tubelet.models.aot.blocks import Memory
from tubelet.models.aot.model import AOT, IDENTITIES, Encoded
from tubelet.types import VOID, Clip, Labels


class Truth(NamedTuple):
    """What the losses of a batch of clips need to know of it."""

    ids: Int[Tensor, "B T H W"]
    objects: Int[Tensor, " B"]
    identities: Int[Tensor, "B 11"]  # the matrix P of equation 2: which identity an object has
    hard_fraction: float


def clip_loss(
    model: AOT,
    clip: Clip,
    labels: Labels,
    *,
    hard_fraction: float,
    reference_weight: float,
    feedback: bool,
    memory_gap: int,
) -> dict[str, Float[Tensor, ""]]:
    """The first frame refers, the others are predicted one after another; see `AOT.loss`."""
    batch, time = clip.images.shape[:2]
    assert time > 1, "a training clip has a reference frame and at least one to predict"
    identities = shuffle_identities(batch, clip.numbers).to(labels.ids.device)
    truth = Truth(labels.ids, labels.objects, identities, hard_fraction)
    frames = model.encode_clip(clip)

    outputs, memory = model.refer(frames[0], embed(model, labels.ids[:, 0], identities, frozen=feedback))
    reference = clip.images.new_zeros(())
    if reference_weight > 0:
        reference = reference_weight * frame_loss(model, frames[0], outputs, truth, 0)[0].sum()

    losses, long, short = [], [[m] for m in memory], memory
    for t in range(1, time):
        outputs, matched = model.propagate(frames[t], [(join(kept), s) for kept, s in zip(long, short)])
        loss, logits = frame_loss(model, frames[t], outputs, truth, t)
        losses.append(loss)
        if t == time - 1:
            break
        masks = argmax_of_present(logits, labels.objects) if feedback else labels.ids[:, t]
        short = model.memorize(matched, embed(model, masks, identities, frozen=feedback))
        if model.memory_gap is not None and t % memory_gap == 0:
            long = [[*kept, m] for kept, m in zip(long, short)]
    entropy, jaccard = torch.stack(losses).mean(0)
    return {"cross_entropy": entropy, "jaccard": jaccard, "reference": reference}


def frame_loss(
    model: AOT, frame: Encoded, outputs: list[Float[Tensor, "B hw 256"]], truth: Truth, t: int
) -> tuple[Float[Tensor, "2"], Float[Tensor, "B M H W"]]:
    """Half the cross-entropy and half the Jaccard loss of frame t, and its logits, those of object o in channel o
    (M - 1: the most objects of a clip).

    A scalable model is supervised at every depth, the deeper the more (equation 4); the logits are the deepest ones."""
    losses, weights, logits = [], [], frame.tokens
    chosen = truth.identities[:, : int(truth.objects.max()) + 1]  # no clip of the batch has more objects
    for depth in range(1, model.depth + 1) if model.scalable else (model.depth,):
        logits = model.decode(frame, outputs[:depth]).float()
        logits = logits.gather(1, chosen[:, :, None, None].expand(-1, -1, *logits.shape[2:]))
        logits = F.interpolate(logits, truth.ids.shape[2:], mode="bilinear", align_corners=model.align_corners)
        parts = segmentation_loss(logits, truth.ids[:, t], truth.objects, hard_fraction=truth.hard_fraction)
        losses.append(torch.stack(parts))
        weights.append(2.0**depth)
    total = sum((weight * loss for weight, loss in zip(weights, losses)), torch.zeros_like(losses[0]))
    return 0.5 * total / sum(weights), logits


def embed(
    model: AOT, ids: Int[Tensor, "B H W"], identities: Int[Tensor, "B 11"], *, frozen: bool
) -> Float[Tensor, "B hw 256"]:
    """The identity embedding of object ids under a shuffle (equation 2); void is background.

    `frozen`: without gradient to the identity bank, as the authors do once predicted masks are fed back."""
    sample = torch.arange(len(ids), device=ids.device)[:, None, None]
    embedding = model.embed_ids(identities[sample, ids.masked_fill(ids == VOID, 0)])
    return embedding.detach() if frozen else embedding


def join(frames: list[Memory]) -> Memory:
    """Several remembered frames as one memory."""
    return Memory(*(torch.cat(parts, dim=1) for parts in zip(*frames)))


def shuffle_identities(batch: int, numbers: Int[Tensor, " B"] | None = None) -> Int[Tensor, "B 11"]:
    """The matrix P of equation 2, as an index: which identity object o of a sample gets; the background keeps 0.

    Drawn from the numbers of the clips, or else from torch's own generator."""
    seeds = torch.randint(2**31, (batch,)) if numbers is None else numbers
    generators = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
    shuffled = torch.stack([torch.randperm(IDENTITIES, generator=g) + 1 for g in generators])
    return torch.cat((torch.zeros(batch, 1, dtype=torch.long), shuffled), dim=1)


def argmax_of_present(logits: Float[Tensor, "B M H W"], objects: Int[Tensor, " B"]) -> Int[Tensor, "B H W"]:
    """The winning object of each pixel, among the first objects[b] of sample b and the background."""
    absent = torch.arange(logits.shape[1], device=logits.device) > objects[:, None]
    return logits.detach().masked_fill(absent[:, :, None, None], float("-inf")).argmax(1)

"""The sequential training of the AOT family (paper, sections 4.1, 4.3 and 5): `AOT.loss` step by step."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tubelet.loss.masks import segmentation_loss, without_absent
from tubelet.models.aot.blocks import HEADS, Memory
from tubelet.models.aot.model import AOT, IDENTITIES, Encoded
from tubelet.types import VOID, Clip, FlowLabels, Labels

STRIDE = 16  # of a token, in pixels
MATCHING_WEIGHT = 0.2  # of each block
REGIONS = 4  # of a frame of which only places are asked


def clip_loss(
    model: AOT,
    clip: Clip,
    labels: Labels,
    *,
    hard_fraction: float,
    reference_weight: float,
    feedback: bool,
    freeze_bank: bool,
    memory_gap: int,
) -> dict[str, Float[Tensor, ""]]:
    """The first frame refers, the others are predicted one after another; see `AOT.loss`."""
    batch, time = clip.images.shape[:2]
    assert time > 1, "a training clip has a reference frame and at least one to predict"
    identities = shuffle_identities(batch, clip.numbers).to(labels.ids.device)
    frames = model.encode_clip(clip)

    reference, memory = model.refer(frames[0], embed(model, labels.ids[:, 0], identities, frozen=freeze_bank))
    outputs, logits = [reference], [model.decode(frames[0], reference)] if reference_weight > 0 else []
    long, short = [[m] for m in memory], memory
    for t in range(1, time):
        found, matched = model.propagate(frames[t], [(join(kept), s) for kept, s in zip(long, short)])
        outputs.append(found)
        logits.append(model.decode(frames[t], found))
        if t == time - 1:
            break
        masks = labels.ids[:, t]
        if feedback:
            shown = of_objects(model, logits[-1].detach(), masks.shape[1:], labels.objects, identities)
            masks = argmax_of_present(shown, labels.objects)
        short = model.memorize(matched, embed(model, masks, identities, frozen=freeze_bank))
        if model.memory_gap is not None and t % memory_gap == 0:
            long = [[*kept, m] for kept, m in zip(long, short)]

    first = time - len(logits)  # the reference frame is decoded only if it counts
    truth = Labels(labels.ids[:, first:], labels.objects)
    losses = frame_losses(
        model, frames[first:], outputs[first:], logits, truth, identities, hard_fraction=hard_fraction
    )
    entropy, jaccard = losses[1 - first :].mean(0)
    return {
        "cross_entropy": entropy,
        "jaccard": jaccard,
        "reference": reference_weight * losses[: 1 - first].sum(),
    }


def matching_loss(model: AOT, clip: Clip, labels: FlowLabels) -> dict[str, Float[Tensor, ""]]:
    """How badly each block finds the places of the second frame in the first: the cross-entropy of its long-term
    attention there, the mean of all heads, at the true place (bilinear between the four nearest keys).

    Not the paper's, whose encoder has seen ImageNet. The weight makes its gradients about as large as those of
    `clip_loss`."""
    found, (h, w) = find_places(model, clip)
    with torch.autocast(labels.flow.device.type, enabled=False):
        place, known = true_places(labels.flow, (h, w), first_pixel=0 if model.align_corners else STRIDE // 2)
        scale = 2 / place.new_tensor([max(w - 1, 1), max(h - 1, 1)])  # to -1..1
        log_p = torch.stack(found, 2).clamp(min=1e-6).log().flatten(0, 1).unflatten(2, (h, w))  # (B hw, blocks, h, w)
        there = F.grid_sample(log_p, (place * scale - 1).view(-1, 1, 1, 2), padding_mode="border", align_corners=True)
    return {"matching": -MATCHING_WEIGHT * there[known.flatten()].sum() / known.sum().clamp(min=1)}


def find_places(model: AOT, clip: Clip) -> tuple[list[Float[Tensor, "B hw hw"]], tuple[int, int]]:
    """Where each token of the second frame looks in the first: of each block the long-term attention, the mean of all
    heads; and the (h, w) of the tokens.

    The first frame has objects of chance, because what deeper blocks see of a place is also whose it is."""
    first, second = model.encode_clip(clip)
    ids = draw_regions(len(clip.images), (clip.images.shape[3], clip.images.shape[4])).to(clip.images.device)
    _, memory = model.refer(first, model.embed_ids(ids))
    _, matched = model.propagate(second, [(m, m) for m in memory])
    return [attention_map(m.key, kept.key) for m, kept in zip(matched, memory, strict=True)], first.size


def attention_map(query: Float[Tensor, "B n C"], key: Float[Tensor, "B m C"]) -> Float[Tensor, "B n m"]:
    """The weights of `attend`, the mean of all heads, in full precision."""
    with torch.autocast(key.device.type, enabled=False):
        q, k = (x.float().unflatten(2, (HEADS, -1)).transpose(1, 2) for x in (query, key))
        return (q @ k.transpose(2, 3) * q.shape[3] ** -0.5).softmax(-1).mean(1)


def draw_regions(batch: int, size: tuple[int, int]) -> Int[Tensor, "B H W"]:
    """Maps that a few random identities share in random blots; drawn from torch's own generator."""
    blots = F.interpolate(torch.rand(batch, REGIONS, 4, 4), size, mode="bilinear").argmax(1)
    return shuffle_identities(batch)[torch.arange(batch)[:, None, None], blots]


def true_places(
    flow: Float[Tensor, "B 2 H W"], size: tuple[int, int], *, first_pixel: int
) -> tuple[Float[Tensor, "B hw 2"], Bool[Tensor, "B hw"]]:
    """Where (x, y) in the first frame, in tokens, each token of the second is, and whether that is known."""
    at_tokens = flow[:, :, first_pixel::STRIDE, first_pixel::STRIDE].flatten(2).transpose(1, 2)
    known = at_tokens.isfinite().all(2)
    rows, columns = (torch.arange(n, device=flow.device) for n in size)
    own = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), 2).flatten(0, 1)
    return own + at_tokens.nan_to_num(0.0) / STRIDE, known


def frame_losses(
    model: AOT,
    frames: list[Encoded],
    outputs: list[list[Float[Tensor, "B hw 256"]]],
    logits: list[Float[Tensor, "B 11 h4 w4"]],
    truth: Labels,
    identities: Int[Tensor, "B 11"],
    *,
    hard_fraction: float,
) -> Float[Tensor, "T 2"]:
    """Half the cross-entropy and half the Jaccard loss of each frame, of which `logits` are the deepest.

    A scalable model is supervised at every depth, the deeper the more (equation 4)."""
    time, batch = len(frames), len(identities)
    ids, objects = truth.ids.transpose(0, 1).flatten(0, 1), truth.objects.repeat(time)
    total, weights = torch.zeros(2, time * batch, device=ids.device), 0.0
    for i, x in enumerate([*shallower(model, frames, outputs), torch.cat(logits)]):
        x = of_objects(model, x, ids.shape[1:], objects, identities.repeat(time, 1))
        parts = segmentation_loss(x, ids, objects, hard_fraction=hard_fraction)
        total, weights = total + 2.0**i * torch.stack(parts), weights + 2.0**i
    return 0.5 / weights * total.unflatten(1, (time, batch)).mean(2).T


def shallower(
    model: AOT, frames: list[Encoded], outputs: list[list[Float[Tensor, "B hw 256"]]]
) -> list[Float[Tensor, "n 11 h4 w4"]]:
    """The logits of a scalable model at each depth but the deepest; of all frames at once, because masks are fed back
    from the deepest alone."""
    if not model.scalable:
        return []
    maps = [torch.cat(level) for level in zip(*(frame.shortcuts for frame in frames))]
    all_frames = Encoded(torch.cat([frame.tokens for frame in frames]), frames[0].size, maps)
    layers = [torch.cat(layer) for layer in zip(*outputs)]
    return [model.decode(all_frames, layers[:depth]) for depth in range(1, model.depth)]


def of_objects(
    model: AOT,
    logits: Float[Tensor, "B 11 h4 w4"],
    size: tuple[int, ...],
    objects: Int[Tensor, " B"],
    identities: Int[Tensor, "B 11"],
) -> Float[Tensor, "B M H W"]:
    """Logits at `size` (H, W), those of object o in channel o (M - 1: the most objects of a sample)."""
    chosen = identities[:, : int(objects.max()) + 1]  # the matrix P of equation 2
    x = logits.float().gather(1, chosen[:, :, None, None].expand(-1, -1, *logits.shape[2:]))
    return F.interpolate(x, size, mode="bilinear", align_corners=model.align_corners)


def argmax_of_present(logits: Float[Tensor, "B M H W"], objects: Int[Tensor, " B"]) -> Int[Tensor, "B H W"]:
    """The winning object of each pixel, among the first objects[b] of sample b and the background."""
    return without_absent(logits, objects).argmax(1)


def embed(
    model: AOT, ids: Int[Tensor, "B H W"], identities: Int[Tensor, "B 11"], *, frozen: bool
) -> Float[Tensor, "B hw 256"]:
    """The identity embedding of object ids under a shuffle (equation 2); void is background.

    `frozen`: without gradient to the identity bank."""
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

"""What does an AOT know of matching? Where its attention looks, without the rest of the network.

python benchmarks/matching.py aost                      # the weights that come with the package
python benchmarks/matching.py aost=OLD.safetensors aost=NEW.safetensors --photos PICTURES

All are tried on the same made pictures and clips (`data/synthetic`, seeds that no training draws):

- `places 1`, ...: of the tokens of a view of a picture (`data/views`), the share that a block finds where it truly is
  in another view; by chance one of all tokens, 0.012 at 129 pixels.
- `long 1`, `short 1`, ...: the masks are known in the frames before. Each attention of each block carries the objects'
  shares of the remembered tokens to frame t, with its weights averaged over the heads: from the first frame alone and
  from the frame before. IoU of the objects with the truth, in tokens; every token counts as what it shows most of.
- `answer`: the same of what the network as a whole says there, and `still`: of the frame before as it is.
- `given`: IoU, in pixels, of the objects of the first frame as the network draws them there, where it is given them."""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tubelet.data.loader import ClipStream, collate_flow, synthetic_source, view_source
from tubelet.data.photos import NO_PHOTOS, Photos, read_photos
from tubelet.models.aot.blocks import HEADS, WINDOW, one_hot
from tubelet.models.aot.model import AOT, IDENTITIES, Encoded
from tubelet.models.aot.training import (
    argmax_of_present,
    embed,
    find_places,
    of_objects,
    shuffle_identities,
    true_places,
)
from tubelet.nn.attention import attend, local_attention
from tubelet.types import Clip, FlowLabels, Labels
from tubelet.weights import load

FRAMES, BATCH, SEED = 8, 8, 7919


def places(model: AOT, clip: Clip, labels: FlowLabels) -> dict[str, list[float]]:
    """Of each known token of the second views, 1 if a block finds it in the first, else 0."""
    found, (h, w) = find_places(model, clip)
    place, known = true_places(labels.flow, (h, w), first_pixel=0)
    column, row = place.round().long().unbind(2)
    true = row.clamp(0, h - 1) * w + column.clamp(0, w - 1)
    return {f"places {i + 1}": (x.argmax(2) == true)[known].float().tolist() for i, x in enumerate(found)}


def carried(model: AOT, clip: Clip, labels: Labels) -> dict[str, list[float]]:
    """Of each object in each frame after the first, the IoU of what each attention makes of the truth before."""
    identities, found = shuffle_identities(len(clip.images), clip.numbers), defaultdict(list)
    frames, ids = model.encode_clip(clip), labels.ids.unbind(1)
    shares = [token_shares(x) for x in ids]
    h, w = frames[0].size
    outputs, long = model.refer(frames[0], embed(model, ids[0], identities, frozen=True))
    short, drawn = long, answer(model, frames[0], outputs, labels, identities)
    found["given"] = ious(pixel_shares(drawn), pixel_shares(ids[0]))
    for t in range(1, len(frames)):
        outputs, matched = model.propagate(frames[t], list(zip(long, short, strict=True)))
        drawn = answer(model, frames[t], outputs, labels, identities)
        said = {"still": shares[t - 1], "answer": token_shares(drawn)}
        for i, m in enumerate(matched):
            from_first = attend(m.key, long[i].key, shares[0].repeat(1, 1, HEADS), HEADS)
            said[f"long {i + 1}"] = from_first.unflatten(2, (HEADS, -1)).mean(2)
            q, k = (x.view(len(x), h, w, HEADS, -1).permute(0, 3, 1, 2, 4) for x in (m.key, short[i].key))
            v = shares[t - 1].view(len(q), 1, h, w, -1).expand(-1, HEADS, -1, -1, -1)
            relative = model.lstt.block(i).short_attention.relative_logits(q)
            nothing = q.new_zeros(HEADS, v.shape[4], WINDOW**2)
            before = local_attention(q, k, v, relative, nothing, window=WINDOW)
            said[f"short {i + 1}"] = before.mean(1).flatten(1, 2)
        for name, x in said.items():
            found[name] += ious(x, shares[t])
        short = model.memorize(matched, embed(model, ids[t], identities, frozen=True))
    return found


def answer(
    model: AOT, frame: Encoded, outputs: list[Tensor], labels: Labels, identities: Int[Tensor, "B 11"]
) -> Int[Tensor, "B H W"]:
    """The object that the network sees at each pixel."""
    logits = of_objects(model, model.decode(frame, outputs), labels.ids.shape[2:], labels.objects, identities)
    return argmax_of_present(logits, labels.objects)


def token_shares(ids: Int[Tensor, "B H W"]) -> Float[Tensor, "B hw 11"]:
    """How much of the 16 x 16 pixels about each token every object has."""
    maps = F.pad(one_hot(ids, IDENTITIES + 1), (8, 7, 8, 7), mode="replicate")
    return F.avg_pool2d(maps, 16).flatten(2).transpose(1, 2)


def pixel_shares(ids: Int[Tensor, "B H W"]) -> Float[Tensor, "B n 11"]:
    """The same of every pixel: 0 or 1."""
    return one_hot(ids, IDENTITIES + 1).flatten(2).transpose(1, 2)


def ious(said: Float[Tensor, "B hw 11"], truth: Float[Tensor, "B hw 11"]) -> list[float]:
    """Of every object that most of some token (or a pixel) shows."""
    said, truth = (one_hot(x.argmax(2, keepdim=True), IDENTITIES + 1)[:, 1:, :, 0] for x in (said, truth))
    both, either = (said * truth).sum(2), said.maximum(truth).sum(2)
    return (both / either)[truth.any(2)].tolist()


@torch.no_grad()
def tried(model: AOT, photos: Photos, batches: int, side: int) -> dict[str, float]:
    """The means over all tokens, and over all objects in all frames."""
    size = side, side
    pictures = synthetic_source((2 * side, 2 * side), 1, photos=photos)
    pairs = ClipStream([(view_source(pictures, size), 1.0)], batch=BATCH, seed=SEED, collate=collate_flow)
    clips = ClipStream([(synthetic_source(size, FRAMES, photos=photos), 1.0)], batch=BATCH, seed=SEED)
    values = defaultdict(list)
    for i in range(batches):
        for name, x in {**places(model, *pairs[i]), **carried(model, *clips[i])}.items():
            values[name] += x
    return {name: float(np.mean(x)) for name, x in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="NAME or NAME=WEIGHTS")
    parser.add_argument("--photos", type=Path, help="a folder of pictures for the clips")
    parser.add_argument("--batches", type=int, default=6, help="of 8 clips and of 8 pairs of views")
    parser.add_argument("--size", type=int, default=129, help="of the frames, 16k + 1")
    args = parser.parse_args()
    photos = NO_PHOTOS if args.photos is None else read_photos(args.photos)
    for wanted in args.models:
        name, _, weights = wanted.partition("=")
        model = load(name, weights or None).eval()
        print(
            wanted,
            " ".join(f"{key} {x:.3f}" for key, x in tried(model, photos, args.batches, args.size).items()),
            flush=True,
        )


if __name__ == "__main__":
    main()

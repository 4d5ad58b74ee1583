"""Mask2Former-VIS on a clip: what is in use against a plain port of the reference, in the same run.

    OMP_NUM_THREADS=1 python benchmarks/mask2former.py
    python benchmarks/mask2former.py --device cuda

The plain formulation below follows the reference step by step, without its compiled extension: all frames in one
batch, channels first, a frozen batch norm of its own after each convolution; deformable layers always in float32, by
`grid_sample`, with the samples of all levels stacked; a full mask of every query before each layer, resized to a
boolean mask for each head; `multi_head_attention_forward`; all masks enlarged to the padded size before the best are
chosen. What is in use is a session, which encodes frame by frame. Weights are random: they change no time.
"""

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from attention import race
from torch import Tensor

from tubelet.data.synthetic import make_clip
from tubelet.models.base import precision
from tubelet.models.clips import ClipSession, best_pairs, join, masks_to_frame
from tubelet.models.mask2former import Encoded, Mask2Former, build
from tubelet.nn.deform import DeformableAttention, Sizes, deformable_attention
from tubelet.nn.mask_decoder import Attention, DecoderLayer, Memory, Prediction, attention_mask
from tubelet.nn.pixel_decoder import PixelDecoder, centres
from tubelet.types import Frame, encode_rle
from tubelet.video.resize import padded

FRAMES, MOST = 5, 10
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


# ---- the plain formulation


def encoder_plain(net, x: Tensor) -> list[Tensor]:
    """ResNet; `F.batch_norm` is how the reference's frozen norm runs where no gradient is asked for."""

    def norm(bn, x: Tensor) -> Tensor:
        return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, False, eps=bn.eps)

    x, maps = net.maxpool(F.relu_(norm(net.bn1, net.conv1(x)))), []
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        for block in stage:
            shortcut = x if block.downsample is None else norm(block.downsample[1], block.downsample[0](x))
            x = F.relu_(norm(block.bn1, block.conv1(x)))
            x = F.relu_(norm(block.bn2, block.conv2(x)))
            x = norm(block.bn3, block.conv3(x))
            x += shortcut
            x = F.relu_(x)
        maps.append(x)
    return maps


def sample_plain(value: Tensor, places: Tensor, offsets: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
    """Deformable sampling; shapes as in `deformable_attention`."""
    (batch, _, heads, d), queries = value.shape, len(places)
    sides = offsets.new_tensor([[w, h] for h, w in sizes])
    grids = 2 * (places[:, None, None, None] + offsets / sides[:, None]) - 1
    samples = []
    for level, (x, (h, w)) in enumerate(zip(value.split([h * w for h, w in sizes], dim=1), sizes)):
        image = x.flatten(2).transpose(1, 2).reshape(batch * heads, d, h, w)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
        samples.append(F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    weights = weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    out = (torch.stack(samples, dim=-2).flatten(-2) * weights).sum(-1)
    return out.view(batch, heads * d, queries).transpose(1, 2).contiguous()


def look_plain(module: DeformableAttention, query: Tensor, places: Tensor, memory: Tensor, sizes: Sizes) -> Tensor:
    shape = (module.heads, module.levels, module.points)
    value = module.value(memory).unflatten(2, (module.heads, -1))
    offsets = module.offsets(query).unflatten(2, (*shape, 2))
    weights = module.weights(query).unflatten(2, (module.heads, -1)).softmax(-1).unflatten(3, shape[1:])
    return module.projection(sample_plain(value, places, offsets, weights, sizes))


def attend_plain(decoder: PixelDecoder, maps: list[Tensor]) -> list[Tensor]:
    with torch.autocast(maps[0].device.type, enabled=False):
        inputs = [entrance(x.float()) for entrance, x in zip(decoder.entrances, maps)]
        sizes = [(x.shape[2], x.shape[3]) for x in inputs]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in inputs], dim=1)
        position, places = decoder.positions(sizes), centres(sizes, tokens)
        for layer in decoder.layers:
            found = look_plain(layer.attention, tokens + position, places, tokens, sizes)  # pyright: ignore
            tokens = layer.feed_forward(layer.attention_norm(tokens + found))  # pyright: ignore
        parts = tokens.split([h * w for h, w in sizes], dim=1)
        return [x.transpose(1, 2).reshape(len(x), -1, *size) for x, size in zip(parts, sizes)]


def mask_plain(mask_logits: Tensor, size: tuple[int, int], heads: int) -> Tensor:
    """Where queries may not look, a boolean for each head: (B * heads, Q, n)."""
    batch, queries = mask_logits.shape[:2]
    small = F.interpolate(mask_logits.flatten(0, 1), size, mode="bilinear", align_corners=False)
    blocked = (small.sigmoid() < 0.5).view(batch, 1, queries, -1).repeat(1, heads, 1, 1).flatten(0, 1)
    blocked[blocked.all(-1)] = False
    return blocked


def attention_plain(module: Attention, query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None) -> Tensor:
    """`nn.MultiheadAttention` as it runs by default, weights included."""
    q, k, v = (x.transpose(0, 1) for x in (query, key, value))
    entrance, end = (module.entrance.weight, module.entrance.bias), (module.projection.weight, module.projection.bias)
    fixed = (query.shape[2], module.heads, *entrance, None, None, False, 0.0, *end)
    return F.multi_head_attention_forward(q, k, v, *fixed, training=False, attn_mask=blocked)[0].transpose(0, 1)


def layer_plain(layer: DecoderLayer, x: Tensor, position: Tensor, memory: Memory, blocked: Tensor) -> Tensor:
    found = attention_plain(
        layer.cross_attention, x + position, memory.tokens + memory.position, memory.tokens, blocked
    )
    x = layer.cross_norm(x + found)
    x = layer.self_norm(x + attention_plain(layer.self_attention, x + position, x + position, x, None))
    return layer.feed_forward(x)


def decode_plain(model: Mask2Former, clip: Encoded) -> Prediction:
    decoder = model.decoder
    memories, x = decoder.remember(clip.levels), decoder.start(len(clip.mask_features))
    for i, layer in enumerate(decoder.layers):
        memory, masks = memories[i % len(memories)], decoder.heads(x, clip.mask_features).mask_logits
        blocked = mask_plain(masks, memory.size[1:], layer.cross_attention.heads)  # pyright: ignore
        x = layer_plain(layer, x, decoder.query_position, memory, blocked)  # pyright: ignore
    return decoder.heads(x, clip.mask_features)


def masks_plain(found: Prediction, padded_size: tuple[int, int], size: tuple[int, int]) -> list[list[dict]]:
    """All masks at the padded size; the best ones at the frame's size, as RLE."""
    up = F.interpolate(found.mask_logits[0], padded_size, mode="bilinear", align_corners=False)
    up = up[kept(found), :, : size[0], : size[1]]
    up = F.interpolate(up, size, mode="bilinear", align_corners=False) > 0
    return [[encode_rle(mask) for mask in masks] for masks in up.transpose(0, 1).cpu().numpy()]


def encode_plain(model: Mask2Former, images: Tensor) -> Encoded:
    maps = encoder_plain(model.encoder.net, images)
    mask_features, finest, levels = model.pixel_decoder.pyramid(maps[0], attend_plain(model.pixel_decoder, maps[:0:-1]))
    return Encoded(mask_features[None], finest[None], [x[None] for x in levels])


def kept(found: Prediction) -> list[int]:
    """The queries that are among the best (query, class) pairs, as a session chooses them."""
    return sorted({i for i, _, _ in best_pairs(found.class_logits[0].float().softmax(1)[:, :-1], MOST)})


# ---- what is in use


def masks_in_use(found: Prediction, padded_size: tuple[int, int], size: tuple[int, int]) -> list[list[dict]]:
    masks = found.mask_logits[0, kept(found)].float()
    frames = [masks_to_frame(masks[:, t], padded_size, size, size) for t in range(masks.shape[1])]
    return [[encode_rle(mask) for mask in x.cpu().numpy()] for x in frames]


def play(session: ClipSession, frames: list[Frame]) -> list:
    return [result for frame in frames for result in session.feed(frame)] + session.finish()


# ---- the tables


class Bench:
    """One model on one clip in one precision. `whole`, `stages`, `spots`: names and (plain, in use) to race."""

    def __init__(self, args: argparse.Namespace, name: str):
        torch.manual_seed(0)
        self.name, self.device = name, torch.device(args.device)
        self.model = model = build(args.model).eval().to(args.device)
        for layer in model.pixel_decoder.layers:  # at first all offsets are whole pixels
            torch.nn.init.normal_(layer.attention.offsets.weight, std=0.05)  # pyright: ignore
        clip, _ = make_clip(0, frames=FRAMES, size=tuple(args.size), objects=(3, 3))
        self.size, self.frames = tuple(args.size), [Frame(rgb, t) for t, rgb in enumerate(clip)]
        with self.mode():
            self.images = torch.stack([padded(rgb, self.size) for rgb in clip]).to(args.device)
            self.padded_size = self.images.shape[2], self.images.shape[3]
            self.maps = encoder_plain(model.encoder.net, self.images)
            self.levels = attend_plain(model.pixel_decoder, self.maps[:0:-1])
            self.clip = encode_plain(model, self.images)
            self.each = [model.encoder(x) for x in self.images.split(1)]
            self.own = join([model.encode(x[None, None]) for x in self.images])
            self.found = model.decode_last(self.own)

    def mode(self):
        return precision(PRECISIONS[self.name], self.device)

    def whole_plain(self) -> list:
        with self.mode():
            found = decode_plain(self.model, encode_plain(self.model, self.images))
            return masks_plain(found, self.padded_size, self.size)

    def whole(self) -> list:
        options = {"short_edge": self.size[0], "window": FRAMES, "overlap": 0, "most": MOST}
        return play(self.model.session(**options, autocast=PRECISIONS[self.name]), self.frames)

    def stages(self) -> dict[str, tuple[Callable, Callable]]:
        """What one hands to the next is made beforehand, each way in its own layout."""
        model, pixels = self.model, self.model.pixel_decoder
        images, levels = self.images.split(1), [pixels.attend(x[:0:-1]) for x in self.each]
        return {
            "encoder": (
                lambda: encoder_plain(model.encoder.net, self.images),
                lambda: [model.encoder(x) for x in images],
            ),
            "deformable layers": (
                lambda: attend_plain(pixels, self.maps[:0:-1]),
                lambda: [pixels.attend(x[:0:-1]) for x in self.each],
            ),
            "pyramid": (
                lambda: pixels.pyramid(self.maps[0], self.levels),
                lambda: [pixels.pyramid(x[0], y) for x, y in zip(self.each, levels)],
            ),
            "decoder": (lambda: decode_plain(model, self.clip), lambda: model.decode_last(self.own)),
            "masks and RLE": self.masks(),
        }

    def masks(self) -> tuple[Callable, Callable]:
        """The masks of the best queries at the size of the frames."""
        ends = self.found, self.padded_size, self.size
        return lambda: masks_plain(*ends), lambda: masks_in_use(*ends)

    def spots(self) -> dict[str, tuple[Callable, Callable]]:
        """Deformable sampling of one layer, masked attention of the last layer with the mask it needs."""
        torch.manual_seed(1)
        sizes = [(x.shape[2], x.shape[3]) for x in self.levels]
        n = sum(h * w for h, w in sizes)
        weights = torch.randn(FRAMES, n, 8, 12, device=self.device).softmax(-1).unflatten(3, (3, 4))
        offsets = torch.randn(2, FRAMES, n, 8, 3, 4, device=self.device).movedim(0, -1) * 2
        given = torch.randn(FRAMES, n, 8, 32, device=self.device), centres(sizes, weights), offsets, weights, sizes
        decoder, layer = self.model.decoder, self.model.decoder.layers[8]
        queries, memory = decoder.start(1), decoder.remember(self.clip.levels)[2]
        small = decoder.resized(self.clip.mask_features, self.clip.levels)[2]

        def masked_plain() -> Tensor:
            blocked = mask_plain(decoder.heads(queries, self.clip.mask_features).mask_logits, memory.size[1:], 8)
            return layer_plain(layer, queries, decoder.query_position, memory, blocked)  # pyright: ignore

        def masked() -> Tensor:
            mask = attention_mask(decoder.heads(queries, small).mask_logits, memory.size[1:])
            return layer(queries, decoder.query_position, memory.tokens, memory.position, mask)

        return {
            "deformable sampling": (lambda: sample_plain(*given), lambda: deformable_attention(*given)),
            "masked attention": (masked_plain, masked),
            "masks enlarged": self.masks(),
        }

    def race(self, pairs: dict[str, tuple[Callable, Callable]], repeats: int) -> dict[str, tuple[float, float]]:
        """Milliseconds of (plain, in use)."""

        def clock() -> float:
            if self.device.type == "cpu":
                return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()
            torch.cuda.synchronize()
            return time.perf_counter()

        runs = {f"{i}{name}": pair[i] for name, pair in pairs.items() for i in (0, 1)}
        with self.mode():
            seconds = race(runs, clock, repeats)
        return {name: (1e3 * seconds[f"0{name}"], 1e3 * seconds[f"1{name}"]) for name in pairs}


TABLES: dict[str, Callable[[Bench], dict[str, tuple[Callable, Callable]]]] = {
    "spots": Bench.spots,
    "stages": Bench.stages,
    "whole": lambda bench: {"clip": (bench.whole_plain, bench.whole)},
}


def print_rows(precision: str, rows: dict[str, tuple[float, float]]) -> None:
    total = sum(fast for _, fast in rows.values())
    for name, (plain, fast) in rows.items():
        columns = f"{plain:9.0f} {fast:9.0f} {plain / fast:7.2f}x {fast / total:8.0%}"
        print(f"{name:>20} {precision:>9} {columns}", flush=True)


def compare(bench: dict[str, Bench]) -> None:
    """Every last prediction against the plain one in float32."""
    exact = decode_plain(bench["float32"].model, bench["float32"].clip)
    print("\nlast prediction against plain float32: largest and mean difference of mask logits, pixels on another side")
    for name, b in bench.items():
        with b.mode():
            both = {"plain": decode_plain(b.model, b.clip), "in use": b.found}
        for way, found in both.items():
            off = (found.mask_logits.float() - exact.mask_logits).abs()
            sides = ((found.mask_logits > 0) != (exact.mask_logits > 0)).float().mean()
            print(f"{way:>20} {name:>9} {off.max():9.1e} {off.mean():9.1e} {sides:9.5f}", flush=True)
            if name == "float32":  # masks are of order 1 to 10
                assert off.mean() < 1e-3, "the fast formulation does not give what the plain one gives"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mask2former-vis-r50", help="a variant with a ResNet")
    parser.add_argument("--size", nargs=2, type=int, default=[360, 640], metavar=("H", "W"))
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=int, default=2, help="timed rounds")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    args = parser.parse_args()
    h, w = args.size
    print(f"{args.model}, {FRAMES} frames of {w}x{h}, {args.device}, {torch.get_num_threads()} threads, ms")
    with torch.inference_mode():
        bench = {name: Bench(args, name) for name in PRECISIONS}
        compare(bench)
        for title in args.tables:
            print(f"\n{title:>20} {'precision':>9} {'plain':>9} {'in use':>9} {'ratio':>8} {'of total':>8}")
            for name, b in bench.items():
                print_rows(name, b.race(TABLES[title](b), args.repeats))


if __name__ == "__main__":
    main()

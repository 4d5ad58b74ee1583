"""Multi-scale deformable attention (Deformable DETR, Zhu et al., ICLR 2021, equation 3) without a compiled extension.

A query looks at a few places of each map of a pyramid: `points` per head and level, at learned offsets from where it
stands. The value between pixels is bilinear, and zero outside the map.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

Sizes = list[tuple[int, int]]


def deformable_attention_plain(
    value: Float[Tensor, "B S heads d"],
    places: Float[Tensor, "Q 2"],
    offsets: Float[Tensor, "B Q heads L P 2"],
    weights: Float[Tensor, "B Q heads L P"],
    sizes: Sizes,
) -> Float[Tensor, "B Q C"]:
    """The definition: for each level, sample at place + offset, weight, and sum.

    `value`: the levels of `sizes` (h, w) one after another, S places in all. `places`: (x, y) of the queries, each in
    0..1 from the left and upper edge of the image. `offsets`: (x, y) in pixels of their level. `weights` add up to one
    over levels and points. The heads come out side by side, C = heads * d."""
    batch, _, heads, d = value.shape
    out = value.new_zeros(batch * heads, d, places.shape[0])
    for level, (x, (h, w)) in enumerate(zip(value.split([h * w for h, w in sizes], dim=1), sizes)):
        image = x.permute(0, 2, 3, 1).reshape(batch * heads, d, h, w)
        at = places[:, None, None] + offsets[:, :, :, level] / offsets.new_tensor([w, h])
        grid = (2 * at - 1).transpose(1, 2).flatten(0, 1)
        samples = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        out = out + (samples * weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
    return out.view(batch, heads * d, -1).transpose(1, 2)


def deformable_attention(
    value: Float[Tensor, "B S heads d"],
    places: Float[Tensor, "Q 2"],
    offsets: Float[Tensor, "B Q heads L P 2"],
    weights: Float[Tensor, "B Q heads L P"],
    sizes: Sizes,
) -> Float[Tensor, "B Q C"]:
    """`deformable_attention_plain`, several times faster on a CPU where no gradient is asked for.

    Seen from a query, the corners of its samples are rows of a table, and their weighted sum is an embedding bag, for
    which there are good kernels. On a CPU one image is done at a time, so that the indices stay in the cache. The
    gradient of a bag sorts its indices, and takes longer than the plain form saves: learning takes the plain form."""
    if torch.is_grad_enabled() and (value.requires_grad or offsets.requires_grad or weights.requires_grad):
        return deformable_attention_plain(value, places, offsets, weights, sizes)
    if value.is_cuda:
        return _from_table(value, places, offsets, weights, sizes)
    parts = zip(value.split(1), offsets.split(1), weights.split(1))
    return torch.cat([_from_table(v, places, o, w, sizes) for v, o, w in parts])


def _from_table(value: Tensor, places: Tensor, offsets: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
    batch, _, heads, d = value.shape
    points = offsets.shape[4]
    # With zeros around each map and samples held to that border nothing outside needs a mask. A sample on the last
    # column or row of the border reads one further, with weight 0: hence one more row, and one more place at the end.
    maps = value.split([h * w for h, w in sizes], dim=1)
    bordered = [F.pad(x.unflatten(1, size), (0, 0, 0, 0, 1, 1, 1, 2)).flatten(1, 2) for x, size in zip(maps, sizes)]
    table = torch.cat([*bordered, value.new_zeros(batch, 1, heads, d)], dim=1)
    stride, rows = table.shape[1], table.reshape(-1, d)

    def each(numbers: list[int], dtype: torch.dtype = value.dtype) -> Shaped[Tensor, " LP"]:
        """One number per level -> one per level and point."""
        return torch.tensor(numbers, dtype=dtype, device=value.device).repeat_interleave(points)

    def split(place: Tensor, offset: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
        """Whole and fractional part of the coordinate in the bordered map, (B, Q, heads, LP)."""
        at = (place[:, None] * side + 0.5)[:, None] + offset.flatten(3)
        at = torch.minimum(at.clamp(min=0), side + 1)
        whole = at.detach().floor()
        return whole, at - whole

    h, w = each([h for h, _ in sizes]), each([w for _, w in sizes])
    x, right = split(places[:, 0], offsets[..., 0], w)
    y, below = split(places[:, 1], offsets[..., 1], h)
    starts = [sum((h + 3) * (w + 2) for h, w in sizes[:level]) for level in range(len(sizes))]
    image = torch.arange(batch, device=value.device, dtype=torch.int32)[:, None, None, None] * stride
    head = torch.arange(heads, device=value.device, dtype=torch.int32)[:, None]
    upper = torch.addcmul(x, y, w + 2).int() * heads + ((each(starts, torch.int32) + image) * heads + head)
    lower = upper + (each([w + 2 for _, w in sizes], torch.int32) * heads)

    of_lower = weights.flatten(3) * below
    of_upper = weights.flatten(3) - of_lower
    out = _bag(rows, upper, of_upper - of_upper * right)
    out += _bag(rows, lower, of_lower - of_lower * right)
    neighbours = rows[heads:]  # the table from one place further right
    out += _bag(neighbours, upper, of_upper * right)
    out += _bag(neighbours, lower, of_lower * right)
    return out.view(batch, -1, heads * d)


def _bag(rows: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of the rows, over the last axis of index and weights."""
    return F.embedding_bag(index.flatten(0, -2), rows, per_sample_weights=weights.flatten(0, -2), mode="sum")


class DeformableAttention(nn.Module):
    """The module around `deformable_attention`: offsets and weights are linear in the query."""

    def __init__(self, channels: int, heads: int = 8, levels: int = 3, points: int = 4):
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(channels, heads * levels * points * 2)
        self.weights = nn.Linear(channels, heads * levels * points)
        self.value = nn.Linear(channels, channels)
        self.projection = nn.Linear(channels, channels)
        self.reset()

    def reset(self) -> None:
        """At first head k looks along direction k, 1, 2 .. pixels away, with equal weights."""
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=1)
        direction = direction / direction.abs().amax(dim=1, keepdim=True)
        steps = torch.arange(1, self.points + 1)[:, None]
        bias = (direction[:, None, None] * steps).expand(-1, self.levels, -1, -1)
        nn.init.zeros_(self.offsets.weight)
        with torch.no_grad():
            self.offsets.bias.copy_(bias.flatten())
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        for linear in (self.value, self.projection):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        query: Float[Tensor, "B Q C"],
        places: Float[Tensor, "Q 2"],
        memory: Float[Tensor, "B S C"],
        sizes: Sizes,
    ) -> Float[Tensor, "B Q C"]:
        """`places`: (x, y) of the queries in 0..1. `memory`: the levels of `sizes` (h, w), one after another."""
        shape = (self.heads, self.levels, self.points)
        weights = softmax(self.weights(query).unflatten(2, (self.heads, -1)).to(query.dtype)).unflatten(3, shape[1:])
        value = self.value(memory).unflatten(2, (self.heads, -1)).to(query.dtype)  # bags are no faster in bfloat16
        offsets = self.look(query).unflatten(3, shape).movedim(2, -1)
        return self.projection(deformable_attention(value, places, offsets, weights, sizes))

    def look(self, query: Float[Tensor, "B Q C"]) -> Float[Tensor, "B Q 2 n"]:
        """The offsets of all samples, x apart from y so that neither needs a copy later.

        Never in half precision: bfloat16 cannot tell the pixels of a larger map apart."""
        weight, bias = (
            x.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1) for x in (self.offsets.weight, self.offsets.bias)
        )
        with torch.autocast(query.device.type, enabled=False):
            return F.linear(query, weight, bias).unflatten(2, (2, -1))


def softmax(x: Float[Tensor, "B Q heads n"]) -> Float[Tensor, "B Q heads n"]:
    """Over the last axis. Torch's kernel for that axis is slow where it is short, so it goes to the front meanwhile:
    1.3 instead of 8.8 ms for 12 samples of 8 heads of 5,040 queries on a CPU."""
    return x.movedim(3, 1).contiguous().softmax(1).movedim(1, 3).contiguous()

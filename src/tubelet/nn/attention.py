"""Attention: multi-head over all keys, and over a window around each query.

Tokens are batch-first, `(B, n, C)`; head k owns the channels k*C/heads .. (k+1)*C/heads.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


def attend(
    query: Float[Tensor, "B n C"], key: Float[Tensor, "B m C"], value: Float[Tensor, "B m C"], heads: int
) -> Float[Tensor, "B n C"]:
    """Multi-head softmax(q k^T / sqrt(C / heads)) v, never building the (n, m) matrix of all heads at once."""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class MultiHeadAttention(nn.Module):
    """Attention with its own projections of query, key, value and result."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.projection = nn.Linear(channels, channels)

    def forward(
        self, query: Float[Tensor, "B n C"], key: Float[Tensor, "B m C"], value: Float[Tensor, "B m C"]
    ) -> Float[Tensor, "B n C"]:
        out = attend(self.query(query), self.key(key), self.value(value), self.heads)
        return self.projection(out)


class LocalAttention(nn.Module):
    """Attention of each query to the window x window keys around its own place, with relative embeddings on keys
    and on values (AOT's short-term attention).

    Offsets are row-major over (dy, dx), each from -radius to +radius; keys outside the map do not exist."""

    def __init__(self, channels: int, heads: int, window: int = 15):
        super().__init__()
        self.heads, self.window = heads, window
        self.relative_key = nn.Conv2d(channels, heads * window**2, 1, groups=heads)
        self.relative_value = nn.Parameter(torch.zeros(heads, channels // heads, window**2))
        self.projection = nn.Linear(channels, channels)

    def forward(
        self,
        query: Float[Tensor, "B hw C"],
        key: Float[Tensor, "B hw C"],
        value: Float[Tensor, "B hw C"],
        size: tuple[int, int],
    ) -> Float[Tensor, "B hw C"]:
        h, w = size
        q, k, v = (x.view(x.shape[0], h, w, self.heads, -1).permute(0, 3, 1, 2, 4) for x in (query, key, value))
        relative = self.relative_logits(q)
        out = local_attention(q, k, v, relative, self.relative_value, window=self.window)
        return self.projection(out.permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2))

    def relative_logits(self, q: Float[Tensor, "B heads h w d"]) -> Float[Tensor, "B heads h w window2"]:
        """The relative term of the keys, a function of the unscaled query: what the convolution computes, as a matrix
        product, which leaves the offsets of a place side by side in memory."""
        weight, bias = self.relative_key.weight, self.relative_key.bias
        assert bias is not None
        logits = q.flatten(2, 3) @ weight.view(self.heads, self.window**2, -1).transpose(1, 2)
        logits += bias.view(self.heads, 1, -1)
        return logits.unflatten(2, q.shape[2:4])


def inside_window(h: int, w: int, window: int, device: torch.device) -> Bool[Tensor, "h w window2"]:
    """For each place of an h x w map, which offsets of its window (row-major) lie on the map."""

    def axis(n: int) -> Tensor:
        place = torch.arange(n, device=device)[:, None] + torch.arange(window, device=device) - window // 2
        return (place >= 0) & (place < n)

    return (axis(h)[:, None, :, None] & axis(w)[None, :, None, :]).flatten(2)


def local_attention_plain(
    q: Float[Tensor, "B heads h w d"],
    k: Float[Tensor, "B heads h w d"],
    v: Float[Tensor, "B heads h w d"],
    relative: Float[Tensor, "B heads h w window2"],
    relative_value: Float[Tensor, "heads d window2"],
    *,
    window: int,
) -> Float[Tensor, "B heads h w d"]:
    """What `local_attention` computes, written down directly: the window of every query is gathered in full."""
    r, (h, w) = window // 2, q.shape[2:4]

    def windows(x: Tensor) -> Tensor:
        """(B, heads, h, w, d) -> (B, heads, h, w, d, window^2), zeros outside the map."""
        padded = F.pad(x, (0, 0, r, r, r, r))
        return padded.unfold(2, window, 1).unfold(3, window, 1).flatten(5)

    inside = inside_window(h, w, window, q.device)
    scores = torch.einsum("bnhwd,bnhwdk->bnhwk", q * q.shape[-1] ** -0.5, windows(k)) + relative
    weights = scores.masked_fill(~inside, float("-inf")).softmax(-1)
    out = torch.einsum("bnhwk,bnhwdk->bnhwd", weights, windows(v))
    return out + torch.einsum("bnhwk,ndk->bnhwd", weights, relative_value)


# Added to the score of a key outside the map. Its exponential is 0, and unlike -inf it may be multiplied with 0.
OUTSIDE = -1e4


def local_attention(
    q: Float[Tensor, "B heads h w d"],
    k: Float[Tensor, "B heads h w d"],
    v: Float[Tensor, "B heads h w d"],
    relative: Float[Tensor, "B heads h w window2"],
    relative_value: Float[Tensor, "heads d window2"],
    *,
    window: int,
    tile: int | None = None,
) -> Float[Tensor, "B heads h w d"]:
    """Windowed attention in tiles of queries, equal to `local_attention_plain`.

    All queries of a tile look at the same patch of keys, the tile and what lies within the window's radius, in one
    matrix product. A band of that score matrix, window x window per query, is the window; only the band goes through
    the softmax, and it is spread back into a matrix of zeros to weight the values. Costs less than twice the arithmetic
    of the bare windows and none of their gathering.

    `tile`: rows and columns of a tile. By default chosen for speed: a few rows, and 6 to 9 columns, whichever fits the
    width best; a map no larger than what one such tile looks at is done whole."""
    b, heads, h, w, d = q.shape
    n, r = b * heads, window // 2
    if tile is None and h * w <= (5 + 2 * r) * (9 + 2 * r):
        return _attend_map(q, k, v, relative, relative_value, window)
    # A strip of tiles is done at a time: on a CPU its scores stay in the cache, on a GPU fewer launches count for more.
    rows = tile or (16 if q.is_cuda else 5)
    columns = tile or min(range(6, 10), key=lambda columns: -w % columns)
    right = -w % columns
    halo = (0, 0, r, r + right, r, r)
    # The keys outside the map are masked in the matrix product itself, by one more channel: 1 in every query.
    outside = F.pad(k.new_zeros(1, h, w, 1), halo, value=OUTSIDE).expand(n, -1, -1, -1)
    q = F.pad(q.flatten(0, 1) * d**-0.5, (0, 1), value=1.0)
    k = torch.cat((F.pad(k.flatten(0, 1), halo), outside), dim=3)
    v = F.pad(v.flatten(0, 1), halo)
    relative_value = relative_value.transpose(1, 2).repeat(b, 1, 1)
    strips = zip(q.split(rows, dim=1), relative.flatten(0, 1).split(rows, dim=1))
    out = []
    for y, (queries, bias) in zip(range(0, h, rows), strips):
        queries, bias = (F.pad(x, (0, 0, 0, right)) if right else x for x in (queries, bias))
        reach = slice(y, y + queries.shape[1] + 2 * r)
        strip = _attend_strip(queries, k[:, reach], v[:, reach], bias, relative_value, window, columns)
        out.append(strip[:, :, :w])
    return torch.cat(out, dim=1).view(b, heads, h, w, d)


def _attend_map(
    q: Float[Tensor, "B heads h w d"],
    k: Float[Tensor, "B heads h w d"],
    v: Float[Tensor, "B heads h w d"],
    relative: Float[Tensor, "B heads h w window2"],
    relative_value: Float[Tensor, "heads d window2"],
    window: int,
) -> Float[Tensor, "B heads h w d"]:
    """`local_attention` of every query to every place of the map, those out of its window masked."""
    h, w = q.shape[2:4]
    offset, inside = window_offsets(h, w, window, q.device)
    offset = offset.expand(*q.shape[:2], -1, -1)  # gather and scatter do not broadcast
    q, k, v, relative = (x.flatten(2, 3) for x in (q, k, v, relative))
    bias = relative.gather(3, offset).masked_fill(~inside, OUTSIDE)
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(2, 3) + bias).softmax(-1).to(v.dtype)
    of_offset = torch.zeros_like(relative, dtype=v.dtype).scatter_add(3, offset, weights)
    out = weights @ v + of_offset @ relative_value.transpose(1, 2).to(v.dtype)
    return out.unflatten(2, (h, w))


def window_offsets(
    h: int, w: int, window: int, device: torch.device
) -> tuple[Int[Tensor, "hw hw"], Bool[Tensor, "hw hw"]]:
    """For each query and key of an h x w map, which offset (row-major) of the query's window the key is at, and
    whether it is in the window at all (if not, the offset is 0)."""

    def axis(n: int) -> Tensor:
        place = torch.arange(n, device=device)
        return place - place[:, None] + window // 2

    y, x = axis(h)[:, None, :, None], axis(w)[None, :, None, :]
    inside = (y >= 0) & (y < window) & (x >= 0) & (x < window)
    offset = (y * window + x).masked_fill(~inside, 0)
    return offset.flatten(2).flatten(0, 1), inside.flatten(2).flatten(0, 1)


def _attend_strip(
    q: Float[Tensor, "n rows w d1"],
    k: Float[Tensor, "n reach _ d1"],
    v: Float[Tensor, "n reach _ d"],
    relative: Float[Tensor, "n rows w window2"],
    relative_value: Float[Tensor, "n window2 d"],
    window: int,
    columns: int,
) -> Float[Tensor, "n rows w d"]:
    """`local_attention` of a strip of rows whose width is a multiple of `columns`, with k and v wider by the halo."""
    n, rows, w, _ = q.shape
    tiles, wide = w // columns, columns + window - 1

    def tile(x: Tensor) -> Tensor:
        """(n, rows, w, c) -> (n, tiles, rows, columns, c)."""
        return x.unflatten(2, (tiles, columns)).transpose(1, 2)

    def patch(x: Tensor) -> Tensor:
        """(n, reach, _, c) -> (n * tiles, reach * wide, c): the keys that a tile can see."""
        x = x.unfold(2, wide, columns)  # (n, reach, tiles, c, wide)
        return x.permute(0, 2, 1, 4, 3).reshape(n * tiles, -1, x.shape[3])

    scores = tile(q).reshape(n * tiles, rows * columns, -1) @ patch(k).transpose(1, 2)
    # Query (y, x) of a tile and offset (dy, dx) meet at key (y + dy, x + dx) of the tile's patch.
    keys = scores.shape[2]
    band = (n, tiles, rows, columns, window, window)
    stride = (tiles * rows * columns * keys, rows * columns * keys, columns * keys + wide, keys + 1, wide, 1)
    weights = scores.as_strided(band, stride) + tile(relative).unflatten(4, (window, window))
    weights = weights.flatten(4).softmax(-1).to(scores.dtype)

    spread = torch.zeros_like(scores) if torch.is_grad_enabled() else scores.zero_()
    spread.as_strided(band, stride).copy_(weights.view(band))
    out = (spread @ patch(v)).view(n, -1, v.shape[3]) + weights.flatten(1, 3) @ relative_value.to(weights.dtype)
    return out.view(n, tiles, rows, columns, -1).transpose(1, 2).flatten(2, 3)

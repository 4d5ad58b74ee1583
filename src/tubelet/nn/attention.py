"""Attention: multi-head over all keys, and over a window around each query.

Tokens are batch-first, `(B, n, C)`; head k owns the channels k*C/heads .. (k+1)*C/heads.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
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
        # The relative term is a function of the unscaled query.
        relative = self.relative_key(query.transpose(1, 2).unflatten(2, size))
        relative = relative.unflatten(1, (self.heads, -1)).permute(0, 1, 3, 4, 2)  # (B, heads, h, w, window^2)
        q, k, v = (x.view(x.shape[0], h, w, self.heads, -1).permute(0, 3, 1, 2, 4) for x in (query, key, value))
        out = local_attention(q, k, v, relative, self.relative_value, window=self.window)
        return self.projection(out.permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2))


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
    """Windowed attention in square tiles of queries, equal to `local_attention_plain`.

    All queries of a tile look at the same (tile + window - 1)^2 keys in one matrix product; a band of that score
    matrix, window x window per query, is the window, and the rest is masked. The band is read and written through a
    strided view: query (y, x) of a tile and offset (dy, dx) meet at key (y + dy, x + dx) of the tile's patch.
    Costs about twice the arithmetic of the bare windows and none of their gathering. By default a tile is 8 x 8, and a
    map not larger than the window is one tile."""
    b, heads, h, w, d = q.shape
    tile = tile or (max(h, w) if max(h, w) <= window else 8)
    r, reach = window // 2, tile + window - 1
    rows, columns = -(-h // tile), -(-w // tile)
    below, right = rows * tile - h, columns * tile - w

    def tiles(x: Tensor) -> Tensor:
        """(..., h, w, c) -> (B * heads * tiles, tile^2, c)."""
        x = F.pad(x, (0, 0, 0, right, 0, below))
        x = x.view(b, heads, rows, tile, columns, tile, x.shape[-1]).transpose(3, 4)
        return x.reshape(-1, tile * tile, x.shape[-1])

    def patches(x: Tensor) -> Tensor:
        """(..., h, w, c) -> (B * heads * tiles, reach^2, c): the keys that a tile can see."""
        x = F.pad(x, (0, 0, r, r + right, r, r + below))
        if rows == columns == 1:
            return x.reshape(-1, reach * reach, x.shape[-1])
        x = x.unfold(2, reach, tile).unfold(3, reach, tile)  # (B, heads, rows, columns, c, reach, reach)
        return x.flatten(5).transpose(4, 5).reshape(-1, reach * reach, x.shape[4])

    n = b * heads * rows * columns
    band_size = (n, tile, tile, window, window)
    band_stride = (tile * tile * reach**2, tile * reach**2 + reach, reach**2 + 1, reach, 1)
    bias = torch.full((n, tile * tile, reach**2), float("-inf"), device=q.device, dtype=q.dtype)
    relative = relative.masked_fill(~inside_window(h, w, window, q.device), float("-inf")).to(q.dtype)
    bias.as_strided(band_size, band_stride).copy_(tiles(relative).view(band_size))
    weights = torch.baddbmm(bias, tiles(q * d**-0.5), patches(k).transpose(1, 2)).softmax(-1)

    out = weights @ patches(v)
    band = weights.as_strided(band_size, band_stride).reshape(b, heads, -1, window**2)
    out = out.view(b, heads, -1, d) + band @ relative_value.transpose(1, 2).to(band.dtype)
    out = out.view(b, heads, rows, columns, tile, tile, d).transpose(3, 4)
    return out.reshape(b, heads, rows * tile, columns * tile, d)[:, :, :h, :w]

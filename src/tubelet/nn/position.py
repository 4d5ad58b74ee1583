"""Position embeddings."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def sine_axis(n: int, channels: int, *, start: int, device: torch.device | None) -> Float[Tensor, "n channels"]:
    """Sine and cosine, interleaved, of n places that run from `start` and are scaled so that the last one is 2 pi."""
    place = torch.arange(start, start + n, device=device, dtype=torch.float32)
    place = place / (place[-1] + 1e-6) * 2 * math.pi
    pair = torch.arange(channels, device=device) // 2
    angle = place[:, None] / 10_000 ** (2 * pair / channels)
    return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)


def sine_position(
    h: int, w: int, channels: int, *, start: int = 0, device: torch.device | None = None
) -> Float[Tensor, "hw channels"]:
    """DETR-like sine embedding of an h x w map: channels/2 for the row, then channels/2 for the column.

    Coordinates run from `start` and are scaled so that the last one is 2 pi (AOT counts from 0, DETR from 1);
    sine and cosine are interleaved, temperature 10,000. Depends on the size alone, so the corners of every map
    agree."""
    rows = sine_axis(h, channels // 2, start=start, device=device)
    columns = sine_axis(w, channels // 2, start=start, device=device)
    both = torch.cat((rows[:, None].expand(h, w, -1), columns[None].expand(h, w, -1)), dim=2)
    return both.reshape(h * w, channels)


def sine_position_3d(
    t: int, h: int, w: int, channels: int, *, device: torch.device | None = None
) -> Float[Tensor, "thw channels"]:
    """`sine_position` of t frames, counted from 1, plus the same kind of embedding of the time over all channels
    (Mask2Former for video). The last frame is at 2 pi, however long the clip."""
    time = sine_axis(t, channels, start=1, device=device)
    return (time[:, None] + sine_position(h, w, channels, start=1, device=device)).flatten(0, 1)

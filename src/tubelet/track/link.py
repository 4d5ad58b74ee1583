"""Who is who: linking what was found in one part of a video with what was found in the next."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def link(similarity: Float[Tensor, "N M"], *, threshold: float) -> list[tuple[int, int]]:
    """Pairs (row, column) that maximise the sum of similarities, each row and column at most once; pairs that are less
    alike than `threshold` are left out, and do not keep others from being made.

    Raises `ValueError` if a similarity is not a number."""
    if similarity.isnan().any():
        raise ValueError("a similarity is not a number; the model's embeddings are broken")
    # What is too unlike is worth nothing, so that it is never preferred to a pair that counts.
    worth = torch.where(similarity >= threshold, similarity - threshold + 1e-6, 0.0)
    rows, columns = linear_sum_assignment(worth.double().cpu().numpy(), maximize=True)
    pairs = zip(rows.tolist(), columns.tolist())
    return [(row, column) for row, column in pairs if worth[row, column] > 0]


def cosine(one: Float[Tensor, "N C"], other: Float[Tensor, "M C"]) -> Float[Tensor, "N M"]:
    """-1..1, 0 for an embedding of zeros."""
    return F.normalize(one, dim=1) @ F.normalize(other, dim=1).T


def tube_iou(one: Bool[Tensor, "N T h w"], other: Bool[Tensor, "M T h w"]) -> Float[Tensor, "N M"]:
    """Intersection over union of tubes on the same frames, 0..1; 0 if both are empty."""
    a, b = one.flatten(1).float(), other.flatten(1).float()
    overlap = a @ b.T
    union = a.sum(1)[:, None] + b.sum(1) - overlap
    return overlap / union.clamp(min=1)

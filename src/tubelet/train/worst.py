"""The pictures of what a model does worst, gathered while it is validated."""

import heapq
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tubelet.viz.draw import contact_sheet, overlay

WIDTH = 794  # of a picture: two fill a sheet of 1600 pixels


class Worst:
    """The pictures of the lowest scores, at most `most`, whatever the number seen."""

    def __init__(self, most: int = 12):
        self.most = most
        self.heap: list[tuple[float, int, np.ndarray]] = []  # the best of them first; of equal ones, the latest
        self.seen = 0

    def add(self, score: float, picture: Callable[[], UInt8[np.ndarray, "_ _ 3"]]) -> None:
        """Keeps the picture if the score is among the lowest so far; it is drawn only then."""
        self.seen += 1
        if len(self.heap) < self.most:
            heapq.heappush(self.heap, (-score, -self.seen, picture()))
        elif score < -self.heap[0][0]:
            heapq.heapreplace(self.heap, (-score, -self.seen, picture()))

    def save(self, path: Path) -> None:
        """Writes the pictures as one PNG, two in a row, the worst first; nothing if there are none."""
        if not self.heap:
            return
        pictures = [picture for _, _, picture in sorted(self.heap, key=lambda entry: entry[:2], reverse=True)]
        part = path.with_name(path.name + ".part")
        Image.fromarray(contact_sheet(pictures, columns=2)).save(part, format="PNG")
        part.replace(path)


def truth_and_prediction(
    rgb: UInt8[np.ndarray, "H W 3"],
    truth: UInt8[np.ndarray, "H W"],
    found: UInt8[np.ndarray, "H W"],
    *,
    name: str,
    score: str,
) -> UInt8[np.ndarray, "_ _ 3"]:
    """A frame with the true object ids beside the same with those found, small, the name and the score below."""
    pair = [overlay(rgb, truth), overlay(rgb, found)]
    return contact_sheet(pair, columns=2, width=WIDTH, titles=[f"{name}: truth", f"found: {score}"])

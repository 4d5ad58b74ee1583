"""Masks drawn on pictures, and pictures side by side. Fast enough for every frame of a video."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from tubelet.types import BACKGROUND, VOID, visible
from tubelet.viz.palette import BRIGHT

GREY = 48  # behind the pictures of a contact sheet
FONT = cv2.FONT_HERSHEY_SIMPLEX


def overlay(
    rgb: UInt8[np.ndarray, "H W 3"],
    labels: UInt8[np.ndarray, "_ _"],
    *,
    alpha: float = 0.5,
    contour: bool = True,
    names: Mapping[int, str] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with each object in its colour (the same in every frame), new memory.

    alpha: share of the colour, 0..1. contour: a bright line inside each object's edge. names: writes a small
    box with the text (an id that is not in `names` shows its number; `{}` numbers all) at the top of each
    object.

    Raises `ValueError` if the mask has another size than the picture."""
    if rgb.shape[:2] != labels.shape:
        raise ValueError(
            f"the mask is {labels.shape[1]}x{labels.shape[0]} but the picture is {rgb.shape[1]}x{rgb.shape[0]}"
        )
    objects = _objects(labels)
    out = _blend(rgb, labels, objects, alpha)
    if contour:
        edge = _inner_edge(labels) & objects
        out[edge] = _towards_white(BRIGHT)[labels[edge]]
    if names is not None:
        for i in visible(labels):
            _tag(out, labels == i, names.get(i, str(i)), BRIGHT[i])
    return out


def class_overlay(
    rgb: UInt8[np.ndarray, "H W 3"],
    labels: UInt8[np.ndarray, "_ _"],
    names: Sequence[str],
    colours: UInt8[np.ndarray, "256 3"],
    *,
    alpha: float = 0.6,
    legend: int = 8,
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with each class in its colour, void as it is, and a legend of the classes that cover most of it (at
    most `legend`, as many as find room; 0 for none), the largest on top. New memory.

    Raises `ValueError` if the class map has another size than the picture."""
    if rgb.shape[:2] != labels.shape:
        raise ValueError(
            f"the class map is {labels.shape[1]}x{labels.shape[0]}, the picture {rgb.shape[1]}x{rgb.shape[0]}"
        )
    mixed = cv2.addWeighted(rgb, 1 - alpha, colours[labels], alpha, 0)
    out = cv2.copyTo(mixed, (labels != VOID).astype(np.uint8), rgb.copy())
    count = np.bincount(labels.ravel(), minlength=VOID)[: len(names)]
    _legend(out, [(names[int(k)], colours[k]) for k in np.argsort(-count)[:legend] if count[k]])
    return out


def _legend(out: np.ndarray, entries: Sequence[tuple[str, np.ndarray]]) -> None:
    """A box of text for each entry, from the top left corner down."""
    scale = max(0.35, min(out.shape[:2]) / 1100)
    weight = 1 if scale < 0.8 else 2
    y = 2
    for text, colour in entries:
        (w, h), below = cv2.getTextSize(text, FONT, scale, weight)
        if y + h + below + 4 > out.shape[0]:
            return
        box = tuple(map(int, colour))
        cv2.rectangle(out, (2, y), (w + 6, y + h + below + 3), box, -1)
        cv2.putText(out, text, (4, y + h + 2), FONT, scale, _ink(colour), weight, cv2.LINE_AA)
        y += h + below + 5


def _ink(colour: np.ndarray) -> tuple[int, int, int]:
    """Black or white, whichever can be read on a colour."""
    return (0, 0, 0) if colour @ (0.299, 0.587, 0.114) > 110 else (255, 255, 255)


def _objects(labels: np.ndarray) -> Bool[np.ndarray, "H W"]:
    return (labels != BACKGROUND) & (labels != VOID)


def _blend(rgb: np.ndarray, labels: np.ndarray, objects: np.ndarray, alpha: float) -> np.ndarray:
    colours = BRIGHT.copy()
    colours[VOID] = BRIGHT[BACKGROUND]
    mixed = cv2.addWeighted(rgb, 1 - alpha, colours[labels], alpha, 0)
    return cv2.copyTo(mixed, objects.astype(np.uint8), rgb.copy())


def _inner_edge(labels: np.ndarray) -> Bool[np.ndarray, "H W"]:
    """Pixels whose neighbourhood holds another id; two pixels wide on large pictures."""
    reach = 3 if max(labels.shape) < 1000 else 5
    box = np.ones((reach, reach), np.uint8)
    return (cv2.erode(labels, box) != labels) | (cv2.dilate(labels, box) != labels)


def _towards_white(colours: np.ndarray) -> UInt8[np.ndarray, "256 3"]:
    return (colours // 2 + 127).astype(np.uint8)


def _tag(out: np.ndarray, mask: np.ndarray, text: str, colour: np.ndarray) -> None:
    """Writes `text` in a box of `colour` above the object's highest point, kept inside the picture."""
    height, width = mask.shape
    top = int(mask.any(1).argmax())
    centre = int(np.flatnonzero(mask[top]).mean())
    scale = max(0.35, min(height, width) / 1100)
    weight = 1 if scale < 0.8 else 2
    (w, h), below = cv2.getTextSize(text, FONT, scale, weight)
    x = int(np.clip(centre - w // 2, 2, max(2, width - w - 3)))
    y = int(np.clip(top - 4, h + 3, max(h + 3, height - below - 2)))  # the text's base line
    box = tuple(map(int, colour))
    cv2.rectangle(out, (x - 2, y - h - 2), (x + w + 2, y + below), box, -1)
    cv2.putText(out, text, (x, y), FONT, scale, _ink(colour), weight, cv2.LINE_AA)


def contact_sheet(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    *,
    columns: int = 4,
    titles: Sequence[str] | None = None,
    width: int = 1600,
    gap: int = 4,
) -> UInt8[np.ndarray, "H W 3"]:
    """Pictures in rows of `columns`, `width` pixels wide in all. Each keeps its proportions, its title below
    it.

    Raises `ValueError` if there is no picture, or not one title for each."""
    if not images:
        raise ValueError("a contact sheet needs at least one picture")
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"{len(titles)} titles were given for {len(images)} pictures")
    columns = min(columns, len(images))
    cell = (width - gap * (columns + 1)) // columns
    if cell < 1:
        raise ValueError(f"{columns} columns do not fit into {width} pixels")
    line = 0 if titles is None else 20
    small = [_fit_width(image, cell) for image in images]
    sheet = []
    for first in range(0, len(small), columns):
        row = small[first : first + columns]
        strip = np.full((max(len(image) for image in row) + line + gap, width, 3), GREY, np.uint8)
        for k, image in enumerate(row):
            x = gap + k * (cell + gap)
            strip[gap : gap + len(image), x : x + cell] = image
            if titles is not None:
                at = (x + 2, gap + len(image) + line - 8)
                cv2.putText(strip, titles[first + k], at, FONT, 0.42, (235, 235, 235), 1, cv2.LINE_AA)
        sheet.append(strip)
    return np.concatenate([*sheet, np.full((gap, width, 3), GREY, np.uint8)])


def _fit_width(image: np.ndarray, width: int) -> np.ndarray:
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    shrinks = width < image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)

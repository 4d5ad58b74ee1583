"""Two colour tables: the one of PASCAL VOC and DAVIS for PNG files, and a brighter one for drawing on pictures."""

import colorsys

import numpy as np
from jaxtyping import UInt8


def voc_palette() -> UInt8[np.ndarray, "256 3"]:
    """The palette of PASCAL VOC and DAVIS: bits 0, 3, 6 of the id are the highest bits of red, then bits 1,
    4, 7 of green, bits 2, 5 of blue."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for channel in range(3):
        for k in range(8):
            if 3 * k + channel < 8:
                palette[:, channel] |= ((ids >> (3 * k + channel) & 1) << (7 - k)).astype(np.uint8)
    return palette


def bright_palette() -> UInt8[np.ndarray, "256 3"]:
    """Bright colours that tell neighbouring ids apart on a dimmed picture; 0 is black, and an id's colour
    never changes.

    The hue turns by the golden angle from id to id; saturation and value alternate so that hues may come
    close."""
    palette = np.zeros((256, 3), np.uint8)
    for i in range(1, 256):
        hue = (0.98 + (i - 1) * 0.618034) % 1
        saturation, value = ((0.80, 1.0), (0.55, 1.0), (0.90, 0.80))[(i - 1) // 8 % 3]
        palette[i] = np.round(np.array(colorsys.hsv_to_rgb(hue, saturation, value)) * 255)
    return palette


VOC = voc_palette()
BRIGHT = bright_palette()

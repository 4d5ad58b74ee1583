import numpy as np
import pytest

from tubelet.types import VOID
from tubelet.viz.draw import class_overlay, contact_sheet, overlay
from tubelet.viz.palette import BRIGHT, VOC

GREY = np.full((20, 30, 3), 100, np.uint8)


def square(i: int) -> np.ndarray:
    labels = np.zeros((20, 30), np.uint8)
    labels[5:15, 10:20] = i
    return labels


def test_the_voc_palette_is_the_official_one():
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128), 8: (64, 0, 0)}
    known |= {15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    for i, colour in known.items():
        assert tuple(VOC[i]) == colour, i
    assert len(np.unique(VOC, axis=0)) == 256


def test_bright_colours_are_bright_and_apart():
    small = BRIGHT[1:11].astype(int)
    assert small.max(1).min() > 180
    apart = np.abs(small[:, None] - small[None]).max(-1) + 255 * np.eye(10, dtype=int)
    assert apart.min() > 50
    assert len(np.unique(BRIGHT, axis=0)) > 250


def test_overlay_colours_the_object_and_nothing_else():
    out = overlay(GREY, square(3), alpha=0.25, contour=False)
    inside = square(3) == 3
    np.testing.assert_array_equal(out[~inside], GREY[~inside])
    assert np.abs(out[inside] - (0.75 * 100 + 0.25 * BRIGHT[3])).max() <= 1
    assert (GREY == 100).all()


def test_the_contour_lies_inside_the_edge():
    plain, lined = (overlay(GREY, square(1), contour=c) for c in (False, True))
    changed = (plain != lined).any(-1)
    want = square(1) == 1
    want[6:14, 11:19] = False
    np.testing.assert_array_equal(changed, want)


def test_void_and_nothing_are_left_alone():
    for i in (0, 255):
        np.testing.assert_array_equal(overlay(GREY, square(i), names={}), GREY)


def test_names_are_written_inside_the_picture():
    for labels in (square(1), np.full((20, 30), 2, np.uint8), np.eye(20, 30, dtype=np.uint8)):
        with_name = overlay(GREY, labels, names={1: "a dog"})
        assert (with_name != overlay(GREY, labels)).any()
    tiny = np.ones((1, 1), np.uint8)
    assert overlay(np.zeros((1, 1, 3), np.uint8), tiny, names={}).shape == (1, 1, 3)


def test_the_colour_of_an_id_does_not_depend_on_the_others():
    both = square(7)
    both[0, 0] = 9
    a, b = overlay(GREY, square(7)), overlay(GREY, both)
    np.testing.assert_array_equal(a[5:15, 10:20], b[5:15, 10:20])


def test_a_mask_of_another_size():
    with pytest.raises(ValueError, match="mask is 30x19 but the picture is 30x20"):
        overlay(GREY, square(1)[:-1])


@pytest.mark.parametrize("count", [1, 3, 4, 7])
@pytest.mark.parametrize("titled", [True, False])
def test_contact_sheet(count, titled):
    images = [np.full((20 + k, 30, 3), 255 - k, np.uint8) for k in range(count)]
    sheet = contact_sheet(images, columns=3, width=301, titles=[f"frame {k}" for k in range(count)] if titled else None)
    assert sheet.shape[1] == 301
    for k in range(count):
        assert (sheet == 255 - k).all(-1).sum() >= 50 * 30


def test_contact_sheet_of_nothing():
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])
    with pytest.raises(ValueError, match="2 titles were given for 1"):
        contact_sheet([GREY], titles=["a", "b"])


def test_classes_cover_the_picture_but_void_does_not():
    labels = np.zeros((60, 80), np.uint8)
    labels[:, 40:], labels[50:] = 1, VOID
    out = class_overlay(np.full((60, 80, 3), 100, np.uint8), labels, ["sky", "road"], BRIGHT, alpha=0.5, legend=0)
    np.testing.assert_allclose(out[10, 60], (100 + BRIGHT[1].astype(float)) / 2, atol=1)
    np.testing.assert_allclose(out[10, 10], (100 + BRIGHT[0].astype(float)) / 2, atol=1)
    assert (out[50:] == 100).all()
    with pytest.raises(ValueError, match="the class map is 80x60, the picture 81x60"):
        class_overlay(np.zeros((60, 81, 3), np.uint8), labels, ["sky", "road"], BRIGHT)


def test_the_legend_names_what_is_there_as_long_as_there_is_room():
    rgb, colours = np.zeros((200, 200, 3), np.uint8), np.arange(768).reshape(256, 3).astype(np.uint8)
    labels = np.full((200, 200), 3, np.uint8)
    plain, named = (class_overlay(rgb, labels, list("abcd"), colours, legend=n) for n in (0, 4))
    changed = (plain != named).any(2)
    assert changed.any()
    assert not changed[30:].any()  # one entry alone
    tiny = class_overlay(rgb[:6], labels[:6], list("abcd"), colours)
    np.testing.assert_array_equal(tiny, plain[:6])

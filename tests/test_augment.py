import numpy as np
import pytest

from tubelet.data.augment import (
    FILL,
    augment_video,
    blur,
    colours,
    crop,
    draw_colours,
    merge,
    recolour,
)
from tubelet.types import VOID


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def marked(frames=3, size=(60, 90), box=(20, 30, 30, 50)):
    """A clip where a white box is object 1, so that picture and truth can be compared after any geometry."""
    ids = np.zeros((frames, *size), np.uint8)
    top, left, bottom, right = box
    ids[:, top:bottom, left:right] = 1
    return np.repeat(ids[..., None] * np.uint8(255), 3, -1), ids


def agree(rgb, ids) -> float:
    """The IoU of what is white and what is labelled."""
    white = (rgb > 127).all(-1)
    return (white & (ids == 1)).sum() / max(1, (white | (ids == 1)).sum())


@pytest.mark.parametrize("size", [(48, 48), (33, 65), (129, 97), (1, 1)])
def test_augmented_clips_have_the_size_and_keep_picture_and_truth_together(rng, size):
    for _ in range(10):
        rgb, ids = augment_video(rng, *marked(), size, colour=False)
        assert rgb.shape == (3, *size, 3)
        assert ids.shape == (3, *size)
        assert agree(rgb, ids) > 0.8 or (ids == 1).sum() < 30
        assert (rgb == rgb[0]).all()
        assert (ids == ids[0]).all()


def test_colour_is_the_same_for_all_frames(rng):
    noise = np.repeat(rng.integers(0, 256, (1, 40, 40, 3), np.uint8), 4, 0)
    clips = [augment_video(rng, noise, np.ones((4, 40, 40), np.uint8), (32, 32))[0] for _ in range(20)]
    assert all((c == c[0]).all() for c in clips)
    grey = [(np.ptp(c[0].astype(int), axis=-1) <= 4).all() for c in clips]
    assert 0 < sum(grey) < 15


def test_crops_are_flipped_half_of_the_time(rng):
    rgb, ids = marked(1, (60, 60), (0, 0, 60, 20))
    lefts = [int(augment_video(rng, rgb, ids, (60, 60), colour=False)[1][0, :, :20].any()) for _ in range(40)]
    assert 8 < sum(lefts) < 36


def test_a_crop_keeps_an_object_when_it_can(rng):
    """A tiny object in a corner: blind crops at 1.3 would mostly miss it."""
    rgb, ids = marked(1, (60, 400), (5, 380, 25, 400))
    kept = [crop(rng, rgb, ids, (48, 48), min_pixels=50)[1].any() for _ in range(60)]
    blind = [crop(rng, rgb, ids, (48, 48), min_pixels=-1)[1].any() for _ in range(60)]
    assert sum(kept) > 2 * sum(blind)


def test_a_crop_larger_than_the_frame_is_filled_with_background(rng):
    rgb, ids = marked(2, (30, 30), (0, 0, 30, 30))
    out, mask = crop(rng, rgb, ids, (64, 64), scale=(0.5, 0.5))
    assert set(np.unique(mask)) == {0, 1}
    assert (out[0][mask[0] == 0] == FILL).all(-1).mean() > 0.9


def test_a_clip_without_objects_is_still_cropped(rng):
    rgb, ids = crop(rng, np.zeros((2, 40, 50, 3), np.uint8), np.full((2, 40, 50), VOID, np.uint8), (20, 20))
    assert rgb.shape == (2, 20, 20, 3)
    assert VOID in ids


def test_colours_do_what_they_say():
    pixel = np.array([[[[200, 100, 50]]]], np.uint8)
    assert np.array_equal(recolour(pixel, colours()), pixel)
    assert np.ptp(recolour(pixel, colours(saturation=0.0))) <= 1
    assert recolour(pixel, colours(brightness=0.5)).ravel().tolist() == [100, 50, 25]
    assert recolour(pixel, colours(brightness=2.0)).ravel().tolist() == [255, 200, 100]
    assert recolour(pixel, colours(contrast=0.0, pivot=90.0)).ravel().tolist() == [90, 90, 90]


def test_a_turn_of_hue_changes_the_colour_but_not_its_brightness():
    pixel = np.array([[[[140, 110, 90]]]], np.uint8)
    turned = recolour(pixel, colours(hue=0.5)).ravel()
    luma = [0.299, 0.587, 0.114]
    assert turned.argmax() != 0
    assert abs(turned @ luma - pixel.ravel() @ luma) < 1.5
    assert np.array_equal(recolour(pixel, colours(hue=1.0)), pixel)


def test_drawn_colours_stay_in_their_range(rng):
    matrices = [draw_colours(rng, brightness=0.1, contrast=0.0, saturation=0.0, hue=0.0) for _ in range(50)]
    gains = np.array([m[0, 0] for m in matrices])
    assert 0.9 <= gains.min() < 0.93
    assert 1.07 < gains.max() <= 1.1


def test_blur_keeps_the_mean_and_softens(rng):
    noise = rng.integers(0, 256, (2, 50, 50, 3), np.uint8)
    soft = blur(noise, 2.0)
    assert soft.std() < noise.std() / 2
    assert abs(soft.mean() - noise.mean()) < 2


def test_merge_pastes_the_objects_of_the_upper_clip_and_renumbers(rng):
    below, above = marked(2), marked(2, box=(25, 40, 40, 60))
    above[0][above[1] == 1] = 77
    rgb, ids = merge(rng, below, above)
    assert (rgb[:, 25:40, 40:60] == 77).all()
    lower = int(ids[0, 21, 31])
    assert {lower, int(ids[0, 30, 45])} == {1, 2}
    assert np.array_equal(ids == lower, (below[1] == 1) & (above[1] == 0))


def test_merge_drops_what_is_hidden_and_never_pastes_void(rng):
    below, above = marked(2), marked(2, box=(15, 25, 40, 60))
    assert set(np.unique(merge(rng, below, above)[1])) == {0, 1}
    void = (above[0], above[1] * np.uint8(VOID))
    rgb, ids = merge(rng, below, void)
    assert np.array_equal(rgb, below[0])
    assert np.array_equal(ids, below[1])


def test_merge_keeps_ten_objects_at_most(rng):
    stripes = np.repeat(np.arange(1, 9, dtype=np.uint8), 15)[None, None].repeat(40, 1).repeat(2, 0)
    left, right = stripes.copy(), stripes.copy()
    left[:, 20:], right[:, :20] = 0, 0
    rgb = np.zeros((2, 40, 120, 3), np.uint8)
    _, ids = merge(rng, (rgb, left), (rgb, right))
    assert set(np.unique(ids)) == set(range(11))

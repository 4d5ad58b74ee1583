"""A clip from one image: the truth moves along with the picture, whatever is drawn, and what is off changes nothing."""

from typing import Any

import numpy as np
import pytest

from tubelet.data.augment import FILL
from tubelet.data.stills import CONTROL, draw_bend, move_image
from tubelet.types import VOID

OFF: dict[str, Any] = {"bend": 0.0, "blurred": 0.0, "covered": 0.0}
ALL: dict[str, Any] = {"bend": 0.04, "blurred": 1.0, "covered": 1.0}
# background looks like the filling; the colours stay apart when they are jittered
PALETTE = np.array([FILL, (230, 30, 30), (30, 230, 30), (30, 30, 230)], np.uint8)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def painted(size=(90, 120), discs=((30, 40, 18, 1), (60, 60, 22, 2), (40, 95, 16, 3))):
    """An image whose colours say the ids: discs of (y, x, radius, id)."""
    ids = np.zeros(size, np.uint8)
    y, x = np.mgrid[: size[0], : size[1]]
    for cy, cx, radius, number in discs:
        ids[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = number
    return PALETTE[ids], ids


def seen(rgb):
    """The id that each pixel's colour says."""
    return ((rgb[..., None, :].astype(int) - PALETTE) ** 2).sum(-1).argmin(-1)


def inner(ids, margin=3):
    """Pixels whose whole neighbourhood has one id; beyond the frame there may be another."""
    wide = np.pad(ids, ((0, 0), (margin, margin), (margin, margin)), constant_values=77)
    views = np.lib.stride_tricks.sliding_window_view(wide, (2 * margin + 1,) * 2, axis=(1, 2))
    return views.min((-1, -2)) == views.max((-1, -2))


def agree(rgb, ids) -> float:
    """The IoU of what is not grey and what is labelled."""
    coloured = np.ptp(rgb.astype(int), axis=-1) > 100
    return (coloured & (ids > 0)).sum() / max(1, (coloured | (ids > 0)).sum())


def test_the_result_is_a_matter_of_the_seed():
    first, again, other = (move_image(np.random.default_rng(s), *painted(), 4, (33, 47), **ALL) for s in (1, 1, 2))
    assert first[0].shape == (4, 33, 47, 3)
    assert first[1].shape == (4, 33, 47)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (97, 131)])
@pytest.mark.parametrize("change", [OFF, {**OFF, "bend": 0.08}, {**OFF, "blurred": 1.0}, {**OFF, "covered": 1.0}, ALL])
def test_picture_and_truth_agree_everywhere_but_at_edges(rng, change, size, foreign):
    # an object that comes in front is painted as the background is, so a truth that forgets it is caught
    other = (np.broadcast_to(PALETTE[0], (50, 40, 3)), np.ones((50, 40), np.uint8)) if foreign else None
    for _ in range(6):
        rgb, ids = move_image(rng, *painted(), 4, size, other=other, **change)
        sure = inner(ids)
        assert (seen(rgb)[sure] != ids[sure]).sum() < 4  # pixels on the rim of what is all but covered
        assert sure.mean() > 0.3
        assert set(np.unique(ids)) <= {0, 1, 2, 3}


@pytest.mark.parametrize("bend", [0.0, 0.05])
def test_truth_is_not_shifted_against_the_picture(rng, bend):
    """Half a pixel would show in the mean over many clips."""
    rgb, ids = painted((60, 60), ((30, 30, 14, 1),))
    shifts = []
    for _ in range(20):
        clip, masks = move_image(rng, rgb, ids, 4, (60, 60), **{**OFF, "bend": bend})
        shifts += [
            np.mean(np.nonzero(m), 1) - np.mean(np.nonzero(seen(f) == 1), 1) for f, m in zip(clip, masks, strict=True)
        ]
    assert np.abs(np.mean(shifts, 0)).max() < 0.1
    assert np.abs(shifts).max() < 0.5


def test_crops_lie_on_both_sides_of_the_middle(rng):
    """Half a pixel would show in the mean over many clips."""
    image = painted((60, 60), ((29.5, 29.5, 14, 1),))
    masks = [move_image(rng, *image, 1, (60, 60), **OFF)[1][0] for _ in range(400)]
    assert np.abs(np.mean([np.mean(np.nonzero(mask), 1) for mask in masks], 0) - 29.5).max() < 0.25


@pytest.mark.parametrize("image", [(50, 70), (400, 300), (10, 10)])
def test_every_frame_is_another_view(rng, image):
    rgb, ids = painted(image, ((image[0] // 2, image[1] // 2, min(image) // 4 + 1, 1),))
    for _ in range(5):
        clip, masks = move_image(rng, rgb, ids, 4, (64, 64), **OFF)
        assert min(agree(f, m) for f, m in zip(clip, masks, strict=True)) > 0.6
        assert len({m.tobytes() for m in masks}) == 4


@pytest.mark.parametrize("image", [(50, 70), (5, 8)])
def test_the_first_frame_shows_no_border(rng, image):
    white, ids = np.full((*image, 3), 255, np.uint8), np.ones(image, np.uint8)
    for _ in range(20):
        clip, masks = move_image(rng, white, ids, 2, (64, 64), **OFF)
        assert masks[0].all()
        assert np.ptp(clip[0], (0, 1)).max() == 0
        assert not masks[1].all()


def test_a_clip_is_flipped_half_of_the_time(rng):
    ids = np.zeros((40, 40), np.uint8)
    ids[:, :12] = 1
    lefts = [bool(move_image(rng, PALETTE[ids], ids, 1, (32, 32))[1][0, :, :4].any()) for _ in range(60)]
    assert 18 < sum(lefts) < 42


def test_what_is_ours_leaves_the_first_frame_alone():
    """And what is off draws nothing, so that such a clip is the reference's."""
    image = painted()
    plain = move_image(np.random.default_rng(5), *image, 3, (48, 48), **OFF)
    for change in ({"bend": 0.05}, {"covered": 1.0}):
        rgb, ids = move_image(np.random.default_rng(5), *image, 3, (48, 48), **{**OFF, **change})
        assert np.array_equal(rgb[0], plain[0][0])
        assert np.array_equal(ids[0], plain[1][0])
        assert all((a != b).any() for a, b in zip(rgb[1:], plain[0][1:], strict=True))
    again = move_image(np.random.default_rng(5), *image, 3, (48, 48), **OFF, other=painted((20, 20)))
    assert np.array_equal(again[0], plain[0])


def test_the_plate_is_the_thin_plate_spline():
    """Against the equations, solved here: U(r) = r^2 log r, and an affine part."""
    size, strength = (200, 300), 0.1
    field = draw_bend(np.random.default_rng(2), size, strength)
    moved = np.random.default_rng(2).uniform(-strength, strength, (CONTROL**2, 2)) * [300, 200]
    grid = np.linspace(0, 1, CONTROL)
    points = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)

    def kernel(of):
        r = np.linalg.norm(of[:, None] - points, axis=-1)
        return np.where(r > 0, r**2 * np.log(np.maximum(r, 1e-9)), 0)

    affine = np.hstack([np.ones((len(points), 1)), points])
    system = np.block([[kernel(points), affine], [affine.T, np.zeros((3, 3))]])
    solved = np.linalg.solve(system, np.vstack([moved, np.zeros((3, 2))]))
    pixels = np.array([(y, x) for y in range(10, 190, 20) for x in range(10, 290, 20)])
    at = (pixels[:, ::-1] + 0.5) / [300, 200]
    wanted = np.hstack([kernel(at), np.ones((len(at), 1)), at]) @ solved
    assert np.abs(field[tuple(pixels.T)] - wanted).max() < 0.5
    assert np.abs(wanted).max() > 10


def test_the_plate_never_folds(rng):
    for _ in range(50):
        field = draw_bend(rng, (97, 129), 0.1)
        assert field.shape == (97, 129, 2)
        (xy, xx), (yy, yx) = (np.gradient(field[..., i]) for i in (0, 1))
        assert ((1 + xx) * (1 + yy) - xy * yx).min() > 0
    assert not draw_bend(rng, (9, 7), 0.0).any()


def test_blurred_frames_are_softer():
    noise = np.random.default_rng(1).integers(0, 256, (80, 80, 3), np.uint8)
    sharp, soft = (
        move_image(np.random.default_rng(3), noise, np.ones((80, 80), np.uint8), 1, (465, 465), **{**OFF, "blurred": p})
        for p in (0.0, 1.0)
    )
    assert soft[0].std() < sharp[0].std()
    assert np.array_equal(soft[1], sharp[1])


def test_an_object_of_another_image_comes_in_front(rng):
    """In later frames only; the void around it does not."""
    other_ids = np.full((40, 40), VOID, np.uint8)
    other_ids[10:30, 5:35] = 7
    other = np.where((other_ids == 7)[..., None], PALETTE[2], PALETTE[3]), other_ids
    for _ in range(10):
        image = painted(discs=((45, 60, 30, 1),))
        rgb, ids = move_image(rng, *image, 3, (64, 64), **{**OFF, "covered": 1.0}, other=other)
        assert not (seen(rgb) == 2)[0].any()
        assert (seen(rgb) == 2).sum((1, 2))[1:].min() > 20
        assert not ids[seen(rgb) == 2].any()
        assert not (seen(rgb) == 3).any()
        assert set(np.unique(ids)) == {0, 1}


@pytest.mark.parametrize("other", [None, (np.full((9, 9, 3), 7, np.uint8), np.full((9, 9), VOID, np.uint8))])
def test_pieces_of_the_image_itself_are_background(rng, other):
    """Of its plain ground, not of the object, nor of the half of it that is void, nor of their rims."""
    rgb, ids = painted(discs=((45, 60, 30, 1),))
    ids[45:][ids[45:] == 1] = VOID
    hidden = []
    for _ in range(10):
        plain, covered = (
            move_image(np.random.default_rng(int(seed)), rgb, ids, 2, (64, 64), **{**OFF, "covered": p}, other=other)
            for seed in [rng.integers(1000)]
            for p in (0.0, 1.0)
        )
        gone = covered[1][1] != plain[1][1]
        assert not covered[1][1][gone].any()
        pasted = (covered[0][1] != plain[0][1]).any(-1)
        assert np.abs(covered[0][1][pasted].astype(int) - FILL).max() <= 2
        hidden.append(gone.sum())
    assert np.median(hidden) > 20


@pytest.mark.parametrize("size", [(1, 1), (16, 33)])
@pytest.mark.parametrize("image", [(1, 1), (37, 1), (1, 37), (3, 3)])
@pytest.mark.parametrize("fill", [0, 1, VOID])
def test_the_smallest_images_and_nothing_but_one_id(rng, image, fill, size):
    rgb, ids = np.full((*image, 3), 80, np.uint8), np.full(image, fill, np.uint8)
    for other in (None, (rgb, ids), painted((5, 4), ((2, 2, 3, 1),))):
        clip, masks = move_image(rng, rgb, ids, 3, size, **ALL, other=other)
        assert clip.shape == (3, *size, 3)
        assert set(np.unique(masks)) <= {0, fill}
        assert (masks[0] == fill).all()

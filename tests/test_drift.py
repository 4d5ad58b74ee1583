"""A made motion: where it says a pixel was, there are its colour, its class and its flow."""

import cv2
import numpy as np
import pytest

from tubelet.data.drift import draw_drift, drift, flow_of, inside

SIZE = (61, 93)


def motion(seed: int, classes: np.ndarray):
    return draw_drift(np.random.default_rng(seed), classes)


def blank(size=SIZE) -> np.ndarray:
    return np.zeros(size, np.uint8)


def own_places(size=SIZE) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0])), 2).astype(np.float32)


def test_classes_come_from_where_the_motion_says():
    classes = np.random.default_rng(0).integers(0, 11, SIZE).astype(np.uint8)
    before, seen = motion(2, classes)
    _, moved = drift(np.zeros((*SIZE, 3), np.uint8), classes, before, seen)
    x, y = np.rint(before[..., 0]).astype(int).clip(0, 92), np.rint(before[..., 1]).astype(int).clip(0, 60)
    assert (moved == classes[y, x])[seen].mean() > 0.95  # OpenCV rounds to a 32nd of a pixel
    assert (moved[~seen] == 255).all()
    assert 0.3 < seen.mean() < 1
    assert not inside(before)[(before < -1).any(2)].any()


def test_the_flow_leads_back_to_the_colours_of_the_earlier_frame():
    ramp = np.repeat((own_places() * 2).sum(2).astype(np.uint8)[..., None], 3, 2)
    before, seen = motion(5, (own_places()[..., 0] > 40).astype(np.uint8))
    later, _ = drift(ramp, blank(), before, seen)
    flow = flow_of(before, seen)
    assert np.array_equal(np.isnan(flow).any(2), ~seen)
    back = own_places() + np.nan_to_num(flow)
    found = cv2.remap(ramp, back[..., 0], back[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    assert np.abs(found.astype(int) - later)[seen].max() <= 1
    assert (later != ramp).any()


def test_motion_without_classes_is_smooth_and_of_all_strengths():
    lengths = []
    for seed in range(200):
        before, seen = motion(seed, blank() + 255)  # void alone: nothing moves by itself
        assert np.abs(np.diff(before[..., 0], axis=1) - 1).max() < 0.8  # no folds
        assert np.array_equal(seen, inside(before))
        lengths.append(np.linalg.norm(before - own_places(), axis=2).mean())
    assert min(lengths) < 0.2
    assert 5 < max(lengths) < 15


def test_some_classes_move_by_themselves_and_uncover_what_was_not_seen():
    classes = blank()
    classes[20:40, 30:60] = 3
    jumps, uncovered = 0, 0
    for seed in range(60):
        before, seen = motion(seed, classes)
        jumps += np.abs(np.diff(before[..., 0], axis=1) - 1).max() > 0.9
        uncovered += (inside(before) & ~seen).any()
    assert 10 < jumps < 50
    assert 10 < uncovered < 50


def test_a_thing_that_moves_covers_what_is_behind_it():
    """Pixels of the nearer class have its motion, also where another class was before."""
    classes = blank()
    classes[20:40, 30:60] = 3
    for seed in range(20):
        before, seen = motion(seed, classes)
        _, moved = drift(np.zeros((*SIZE, 3), np.uint8), classes, before, seen)
        x, y = np.rint(before[..., 0]).astype(int).clip(0, 92), np.rint(before[..., 1]).astype(int).clip(0, 60)
        rim = cv2.dilate(cv2.Canny(classes * 80, 1, 1), np.ones((3, 3))) > 0
        clear = seen & ~rim[y, x]
        assert np.array_equal(moved[clear], classes[y, x][clear])


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (1, 1)])
def test_any_size(size):
    before, seen = motion(0, blank(size))
    rgb, classes = drift(np.zeros((*size, 3), np.uint8), blank(size), before, seen)
    assert rgb.shape == (*size, 3)
    assert classes.shape == size
    assert flow_of(before, seen).shape == (*size, 2)

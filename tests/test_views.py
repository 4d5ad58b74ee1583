"""Two views of a picture, and the flow between them."""

import cv2
import numpy as np
import pytest

from tubelet.data import views
from tubelet.data.drift import places


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def smooth_picture(size=(150, 210)):
    """Colours that change slowly and never repeat."""
    noise = np.random.default_rng(1).uniform(0, 255, (6, 8, 3)).astype(np.float32)
    return np.clip(cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(150, 210), (900, 700), (20, 30)])
@pytest.mark.parametrize("size", [(97, 97), (64, 97)])
def test_the_flow_leads_from_the_second_view_to_the_first(rng, monkeypatch, shape, size):
    monkeypatch.setattr(views, "_developed", lambda rng, view: view)
    errors = []
    for _ in range(10):
        (first, second), flow = views.draw_views(rng, smooth_picture(shape), size)
        assert first.shape == second.shape == (*size, 3)
        assert first.dtype == np.uint8
        assert flow.shape == (*size, 2)
        assert flow.dtype == np.float32
        known = np.isfinite(flow).all(2)
        there = places(size) + np.nan_to_num(flow)
        carried = cv2.remap(first, there[..., 0], there[..., 1], cv2.INTER_LINEAR)
        inner = known & (cv2.erode(np.asarray(known, np.uint8), np.ones((3, 3))) > 0)
        errors.append(np.abs(carried[inner].astype(float) - second[inner]).mean())
    assert max(errors) < 3


def test_what_the_first_view_does_not_show_is_unknown(rng):
    size, shares = (65, 65), []
    for _ in range(20):
        _, flow = views.draw_views(rng, smooth_picture(), size)
        known = np.isfinite(flow).all(2)
        there = (places(size) + flow)[known]
        assert there.min() > -0.5
        assert there.max() < 64.5
        shares.append(known.mean())
    assert min(shares) > 0.2
    assert max(shares) > 0.9
    assert min(shares) < 0.9


def test_the_views_differ_in_light_and_in_place(rng):
    (first, second), flow = views.draw_views(rng, smooth_picture(), (65, 65))
    assert np.abs(first.astype(float) - second).mean() > 5
    assert np.nanmax(np.abs(flow)) > 2


def test_the_result_is_a_matter_of_the_seed():
    one, other = (views.draw_views(np.random.default_rng(5), smooth_picture(), (33, 33)) for _ in range(2))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (2, 500)])
def test_pictures_too_small_for_anything(rng, shape):
    (first, second), flow = views.draw_views(rng, smooth_picture(shape), (33, 33))
    assert first.shape == second.shape == (33, 33, 3)
    assert flow.shape == (33, 33, 2)

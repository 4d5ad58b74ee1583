"""The sine position embedding."""

import math

import pytest
import torch

from tubelet.nn.position import sine_position, sine_position_3d


def test_against_the_formula():
    h, w, c = 3, 5, 16
    out = sine_position(h, w, c).view(h, w, c)
    for y in range(h):
        for x in range(w):
            for i in range(c):
                place = y / (h - 1 + 1e-6) if i < c // 2 else x / (w - 1 + 1e-6)
                j = i % (c // 2)
                angle = 2 * math.pi * place / 10_000 ** (2 * (j // 2) / (c // 2))
                assert out[y, x, i].item() == pytest.approx(math.cos(angle) if j % 2 else math.sin(angle), abs=1e-5)


def test_counting_from_one_is_detr():
    rows = sine_position(4, 2, 8, start=1).view(4, 2, 8)[:, 0, 0]
    torch.testing.assert_close(
        rows, torch.tensor([math.sin(2 * math.pi * (y + 1) / 4) for y in range(4)]), atol=1e-5, rtol=0
    )


def test_one_place_is_finite():
    out = sine_position(1, 1, 256)
    assert out.shape == (1, 256)
    assert out.tolist()[0] == [0.0, 1.0] * 128


def test_corners_of_all_sizes_agree():
    small, large = sine_position(3, 4, 32), sine_position(30, 17, 32)
    torch.testing.assert_close(small[[0, -1]], large[[0, -1]], atol=1e-5, rtol=0)


def test_time_is_added_to_the_place():
    t, h, w, c = 3, 2, 4, 16
    out = sine_position_3d(t, h, w, c).view(t, h * w, c)
    place = sine_position(h, w, c, start=1)
    for frame in range(t):
        for i in range(c):
            angle = 2 * math.pi * (frame + 1) / (t + 1e-6) / 10_000 ** (2 * (i // 2) / c)
            time = math.cos(angle) if i % 2 else math.sin(angle)
            torch.testing.assert_close(out[frame, :, i], place[:, i] + time, atol=1e-5, rtol=0)


def test_one_frame_is_the_last_one():
    single, clip = sine_position_3d(1, 2, 2, 8), sine_position_3d(5, 2, 2, 8)
    assert single.shape == (4, 8)
    torch.testing.assert_close(single, clip[-4:], atol=1e-5, rtol=0)

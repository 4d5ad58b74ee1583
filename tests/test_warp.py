import pytest
import torch
import torch.nn.functional as F

from tubelet.nn.warp import resize_flow, warp


def picture(h: int, w: int) -> torch.Tensor:
    return torch.randn(1, 2, h, w, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 5)])
def test_no_flow_changes_nothing(size):
    x = picture(*size)
    torch.testing.assert_close(warp(x, torch.zeros(1, 2, *size)), x)


def test_flow_says_where_to_look_in_columns_and_rows():
    x = picture(6, 8)
    flow = torch.zeros(1, 2, 6, 8)
    flow[:, 0], flow[:, 1] = 2, -1
    moved = warp(x, flow)
    torch.testing.assert_close(moved[..., 1:, :-2], x[..., :-1, 2:])
    torch.testing.assert_close(moved[..., 0, :-2], x[..., 0, 2:])  # above the border: the border
    torch.testing.assert_close(moved[..., 1:, -1], x[..., :-1, -1])


def test_between_places_it_is_bilinear():
    x = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    flow = torch.full((1, 2, 2, 2), 0.5)
    assert warp(x, flow)[0, 0, 0, 0] == pytest.approx(1.5)


def test_the_authors_grid_reads_column_c_at_a_pixel_less_over_the_width():
    w = 10
    x = torch.arange(float(w)).expand(1, 1, 3, w).contiguous()
    found = warp(x, torch.zeros(1, 2, 3, w), grid="authors")
    torch.testing.assert_close(found[0, 0, 0], torch.arange(float(w)) * (w - 1) / w)


def test_a_flow_grows_with_its_picture():
    flow = torch.ones(1, 2, 3, 4)
    flow[:, 1] = -2
    found = resize_flow(flow, (6, 8))
    assert found.shape == (1, 2, 6, 8)
    torch.testing.assert_close(found[:, 0], torch.full((1, 6, 8), 2.0))
    torch.testing.assert_close(found[:, 1], torch.full((1, 6, 8), -4.0))
    assert resize_flow(flow, (3, 4)) is flow


def test_a_picture_carried_there_and_looked_at_at_half_size_agrees():
    """Flow in pixels of one stride, enlarged, moves a larger picture by as much of its width."""
    small = torch.zeros(1, 1, 8, 8)
    small[..., 2:5, 2:5] = 1
    large = F.interpolate(small, scale_factor=2, mode="nearest")
    flow = torch.zeros(1, 2, 8, 8)
    flow[:, 0] = 1
    found = warp(large, resize_flow(flow, (16, 16)))
    torch.testing.assert_close(F.avg_pool2d(found, 2), warp(small, flow))

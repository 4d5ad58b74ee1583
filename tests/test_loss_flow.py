"""The endpoint error against plain loops, at odd sizes and where the truth is not known."""

import math

import pytest
import torch

from tubelet.loss.flow import endpoint_error

NAN = float("nan")


def test_equal_to_a_plain_formulation():
    generator = torch.Generator().manual_seed(0)
    flows = torch.randn(2, 3, 2, 4, 4, generator=generator)
    truth = torch.randn(2, 2, 27, 30, generator=generator) * 8
    truth[0, :, :10, :5] = NAN
    distances = []
    for b in range(2):
        for i in range(4):
            for j in range(4):
                block = truth[b, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
                known = block[:, ~block.isnan().any(0)]
                if known.shape[1] <= 32:
                    continue
                distances += [math.dist(flows[b, q, :, i, j], known.mean(1) / 8) for q in range(3)]
    assert len(distances) == 3 * (12 + 12 - 1)  # the last row is known by less than half
    assert endpoint_error(flows, truth).item() == pytest.approx(sum(distances) / len(distances), rel=1e-5)


def test_the_true_flow_is_without_error_and_one_pixel_too_far_costs_an_eighth():
    truth = torch.full((1, 2, 16, 16), 24.0)
    assert endpoint_error(truth[:, None, :, :2, :2] / 8, truth).item() < 2e-3
    far = truth.clone()
    far[:, 0] += 1
    assert endpoint_error(far[:, None, :, :2, :2] / 8, truth).item() == pytest.approx(1 / 8, rel=1e-3)


def test_nothing_known_teaches_nothing():
    flows = torch.zeros(1, 1, 2, 2, 2, requires_grad=True)
    error = endpoint_error(flows, torch.full((1, 2, 16, 16), NAN))
    error.backward()
    assert error.item() == 0
    assert flows.grad is not None
    assert not flows.grad.any()

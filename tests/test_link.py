"""Linking: who goes with whom, and who with nobody."""

import pytest
import torch

from tubelet.track.link import cosine, link, tube_iou


def test_the_best_sum_wins_not_the_best_pair():
    assert link(torch.tensor([[0.9, 0.8], [0.8, 0.1]]), threshold=0.0) == [(0, 1), (1, 0)]


def test_pairs_below_the_threshold_are_not_made_and_do_not_push_others_aside():
    assert link(torch.tensor([[0.9, 0.8], [0.8, 0.1]]), threshold=0.85) == [(0, 0)]
    assert link(torch.full((2, 3), -1.0), threshold=0.0) == []


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_nobody(shape):
    assert link(torch.zeros(shape), threshold=0.0) == []


def test_more_of_one_than_of_the_other():
    similarity = torch.rand(3, 5)
    pairs = link(similarity, threshold=0.0)
    assert sorted(row for row, _ in pairs) == [0, 1, 2]
    assert len({column for _, column in pairs}) == 3
    turned = link(similarity.T.contiguous(), threshold=0.0)
    assert sorted((row, column) for column, row in turned) == sorted(pairs)


def test_not_a_number():
    with pytest.raises(ValueError, match="not a number"):
        link(torch.tensor([[float("nan")]]), threshold=0.0)


def test_cosine():
    found = cosine(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    assert found.tolist() == [[1, 0, -1], [0, 0, 0]]


def test_tube_iou():
    one = torch.zeros(2, 2, 1, 4, dtype=torch.bool)
    one[0, :, :, :2] = True
    other = torch.zeros(1, 2, 1, 4, dtype=torch.bool)
    other[0, 0, :, :3] = True
    assert tube_iou(one, other).tolist() == [[pytest.approx(2 / 5)], [0]]
    assert tube_iou(one[:, :0], other[:, :0]).tolist() == [[0], [0]]

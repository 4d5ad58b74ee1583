"""The picture of a run's log."""

import numpy as np
from PIL import Image

from tubelet.train.curves import draw_curves, trailing_mean
from tubelet.train.log import Log


def test_trailing_mean():
    assert trailing_mean(np.array([1.0, 3.0, 5.0, 7.0]), 2).tolist() == [1, 2, 4, 6]
    assert trailing_mean(np.array([1.0, 3.0]), 10).tolist() == [1, 2]


def test_nothing_to_draw(tmp_path):
    assert draw_curves(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_validation_that_says_nothing(tmp_path):
    log = Log(tmp_path)
    log.write(step=1, loss=1.0, lr=0.1)
    log.write(step=1)
    assert draw_curves(tmp_path) is not None


def test_losses_and_validation(tmp_path):
    log = Log(tmp_path)
    for step in (1, 2, 3):
        log.write(step=step, loss=1 / step, lr=0.1)
    heights = []
    for _ in range(2):
        assert draw_curves(tmp_path) == tmp_path / "curves.png"
        with Image.open(tmp_path / "curves.png") as image:
            heights.append(image.height)
        log.write(step=3, jf=0.5)
    assert heights == [360, 720]
    assert [p.name for p in tmp_path.glob("*.part")] == []

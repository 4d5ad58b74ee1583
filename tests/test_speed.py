import numpy as np
import pytest

from tubelet.metrics.speed import grid, measure, parse_size
from tubelet.types import LabelFrame, visible


@pytest.mark.parametrize(("size", "objects"), [((480, 854), 3), ((60, 80), 44), ((64, 64), 254), ((9, 9), 1)])
def test_the_grid_shows_every_object(size, objects):
    assert visible(grid(size, objects)) == list(range(1, objects + 1))


def test_sizes():
    assert parse_size("480x854") == (480, 854)
    for wrong in ("480", "axb", "0x5", "1x2x3"):
        with pytest.raises(ValueError, match="size"):
            parse_size(wrong)


def test_measure_times_the_frames_asked_for():
    class Fake:
        fed = 0

        def feed(self, frame, prompt=None):
            self.fed += 1
            return [LabelFrame(np.zeros(frame.rgb.shape[:2], np.uint8), frame.index)]

        def finish(self):
            return []

    from tubelet.models.base import Session

    Session.register(Fake)
    fake = Fake()
    speed = measure(fake, (32, 48), 2, 5)  # pyright: ignore[reportArgumentType]
    assert fake.fed == 6
    assert len(speed.seconds) == 5
    assert speed.memory > 2**20
    assert "frames per second" in str(speed)
    with pytest.raises(ValueError, match="254"):
        measure(fake, (32, 48), 300, 1)  # pyright: ignore[reportArgumentType]

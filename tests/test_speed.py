import numpy as np
import pytest

from tubelet.cli import dispatch
from tubelet.metrics.speed import KeyFrameSpeed, grid, measure, measure_labelling, parse_size
from tubelet.models import mpvss
from tubelet.models.key_frames import KeyFrameSession
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


def test_key_frames_are_timed_apart():
    model = mpvss.build("mpvss-tiny", 5).eval()
    opened: list[KeyFrameSession] = []

    def session():
        opened.append(KeyFrameSession(model, interval=3, short_edge=32))
        return opened[-1]

    speed = measure_labelling(session, (32, 48), 5)
    assert (len(speed.keys), len(speed.others), speed.interval) == (2, 3, 3)
    assert [one.keys for one in opened] == [1, 2]  # the first is there to warm up
    assert "key frames" in str(speed)
    assert "frames between" in str(speed)
    alone = measure_labelling(session, (32, 48), 1)
    assert (len(alone.keys), len(alone.others)) == (1, 0)
    assert "time more frames" in str(alone)
    with pytest.raises(ValueError, match="at least one frame"):
        measure_labelling(session, (32, 48), 0)


def test_frames_per_second_are_those_of_an_interval():
    speed = KeyFrameSpeed(keys=(0.4, 0.5, 9.0), others=(0.1, 0.1), interval=6, memory=2**20, device_memory=None)
    assert speed.fps == pytest.approx(6 / (0.5 + 5 * 0.1))
    assert str(speed) == (
        "key frames 500 ms (3), frames between 100 ms (2); 6.00 frames per second at one key frame in 6, "
        "peak memory 1 MiB"
    )
    every = KeyFrameSpeed(keys=(0.5,), others=(), interval=1, memory=0, device_memory=2**20)
    assert every.fps == 2
    assert str(every) == (
        "key frames 500 ms (1); 2.00 frames per second at one key frame in 1, peak memory 0 MiB, on the GPU 1 MiB"
    )


def test_bench_of_a_model_that_labels_pixels(capsys):
    arguments = ["--size", "32x48", "--frames", "3", "--short-edge", "32", "--classes", "vspw", "--interval", "2"]
    dispatch(["bench", "--model", "mpvss-tiny", *arguments])
    said = capsys.readouterr().out
    assert "mpvss-tiny, 32x48, 124 classes, float32" in said
    assert "key frames" in said
    assert "(2), frames between" in said

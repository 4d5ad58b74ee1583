import json

import numpy as np
import pytest

from tubelet.models.base import Session, TrackSession
from tubelet.run import MaskFolder, Thumbnails, draw_tracks, follow, label_video, predict, predict_tracks
from tubelet.types import Frame, LabelFrame, Prompt, Track, TrackFrame, encode_rle
from tubelet.video.read import read
from tubelet.video.write import LabelPngs
from tubelet.viz.palette import VOC


class Late(Session[LabelFrame]):
    """A fake that answers `lag` frames late and labels every pixel with the last given id."""

    def __init__(self, lag: int):
        self.lag, self.waiting, self.id = lag, [], 0

    def feed(self, frame, prompt=None):
        if prompt is not None:
            (self.id,) = prompt.objects()
        labels = np.full(frame.rgb.shape[:2], self.id, np.uint8)
        self.waiting.append(LabelFrame(labels, frame.index, (self.id,) if self.id else ()))
        return [self.waiting.pop(0)] if len(self.waiting) > self.lag else []

    def finish(self):
        rest, self.waiting = self.waiting, []
        return rest


def pictures(n: int) -> list[np.ndarray]:
    return [np.full((6, 8, 3), t, np.uint8) for t in range(n)]


def prompt(i: int) -> Prompt:
    return Prompt(np.full((6, 8), i, np.uint8))


@pytest.mark.parametrize("lag", [0, 2, 9])
def test_every_frame_comes_back_once_with_its_own_result(lag):
    pairs = list(follow(read(pictures(5)), Late(lag), {0: prompt(1), 3: prompt(4)}))
    assert [(frame.index, result.index) for frame, result in pairs] == [(t, t) for t in range(5)]
    assert [int(frame.rgb[0, 0, 0]) for frame, _ in pairs] == list(range(5))
    assert [int(result.labels[0, 0]) for _, result in pairs] == [1, 1, 1, 4, 4]


def test_label_video():
    assert (label_video(read(pictures(3)), Late(1), {1: prompt(7)}).labels(2) == 7).all()
    with pytest.raises(ValueError, match="no frame"):
        label_video([], Late(0), {})


def test_masks_belong_by_name_or_by_number(tmp_path):
    with LabelPngs(tmp_path, VOC) as writer:
        for name, i in (("first_000", 1), ("00002", 2)):
            writer.write(np.full((6, 8), i, np.uint8), name)
    folder = MaskFolder(tmp_path)
    got = [folder.at(Frame(picture, t)) for t, picture in enumerate(pictures(4))]
    assert [p.objects() if p else None for p in got] == [(1,), None, (2,), None]
    assert folder.unused == []


def test_a_mask_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        MaskFolder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no PNG"):
        MaskFolder(tmp_path)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 500])
def test_thumbnails_stay_few_and_even(n):
    thumbnails = Thumbnails(most=16, width=8)
    for t in range(n):
        if thumbnails.wants(t):
            thumbnails.add(np.zeros((6, 8, 3), np.uint8), str(t))
    times = [int(title) for title in thumbnails.titles]
    assert 1 <= len(times) <= 16
    assert times == list(range(0, n, thumbnails.every))


def test_predict_writes_everything(tmp_path):
    summary = predict(read(pictures(3)), Late(1), {0: prompt(2)}, tmp_path, fps=5.0)
    assert (summary.frames, summary.objects) == (3, (2,))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["contact_sheet.png", "masks", "masks.json", "overlay.mp4"]


def test_no_prompt_at_all_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no mask of an object"):
        predict(read(pictures(3)), Late(0), {}, tmp_path)
    assert not (tmp_path / "overlay.mp4").exists()


def test_no_frame_at_all_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no frame"):
        predict(read(iter([])), Late(0), {0: prompt(1)}, tmp_path)


class Halves(TrackSession):
    """A fake that answers two frames late: track 1 is the left half, track 300 the right half of odd frames."""

    def __init__(self):
        self.waiting: list[TrackFrame] = []

    def feed(self, frame, prompt=None):
        assert prompt is None
        size = frame.rgb.shape[:2]
        left = np.zeros(size, bool)
        left[:, : size[1] // 2] = True
        masks = {1: encode_rle(left), **({300: encode_rle(~left)} if frame.index % 2 else {})}
        self.waiting.append(TrackFrame(frame.index, size, masks, tuple(t for t in self.tracks() if t.id in masks)))
        return [self.waiting.pop(0)] if len(self.waiting) > 2 else []

    def finish(self):
        rest, self.waiting = self.waiting, []
        return rest

    def tracks(self):
        return [Track(1, 1, 0.9), Track(300, 0, 0.6), Track(1, 0, 0.05)]


def test_predict_tracks_writes_tubes_and_pictures(tmp_path):
    summary, tracks = predict_tracks(read(pictures(5)), Halves(), ["cat", "dog"], tmp_path)
    assert summary.frames == 5
    assert summary.objects == (1, 300)
    assert tracks == Halves().tracks()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["contact_sheet.png", "overlay.mp4", "tracks.json"]
    found = json.loads((tmp_path / "tracks.json").read_text())
    assert [(e["category_id"], e["score"]) for e in found] == [(2, 0.9), (1, 0.6), (1, 0.05)]
    assert [s is not None for s in found[1]["segmentations"]] == [False, True, False, True, False]
    assert len(list(read(tmp_path / "overlay.mp4"))) == 5


def test_only_tracks_that_are_sure_are_drawn():
    rgb = np.zeros((40, 60, 3), np.uint8)
    live = Halves()
    live.feed(Frame(rgb, 1))
    (result,) = live.finish()
    both, one, none = (draw_tracks(rgb, result, ["cat", "dog"], show=show) for show in (0.0, 0.7, 0.95))
    assert both[30, 50].any()
    assert one[30, 10].any()
    assert not one[30, 50].any()
    assert not none.any()


def test_tracks_of_a_run_that_dies(tmp_path):
    class Dies(Halves):
        def finish(self):
            raise MemoryError

    with pytest.raises(MemoryError):
        predict_tracks(read(pictures(5)), Dies(), ["cat", "dog"], tmp_path, draw=False)
    assert [p.name for p in tmp_path.iterdir()] == ["tracks.json.part"]
    with pytest.raises(ValueError, match="no frame"):
        predict_tracks(read([]), Halves(), [], tmp_path / "none", draw=False)

import numpy as np
import pytest
import torch

from tubelet.types import (
    Frame,
    LabelFrame,
    LabelVideo,
    Prompt,
    Track,
    TrackFrame,
    Tracks,
    TubeLabels,
    check_prompt,
    decode_rle,
    encode_rle,
    visible,
)


def labels(*rows) -> np.ndarray:
    return np.array(rows, np.uint8)


def test_a_frame_without_a_name_is_called_by_its_index():
    assert Frame(np.zeros((1, 1, 3), np.uint8), 7).name == "00007"


def test_background_and_void_are_no_objects():
    assert visible(labels([0, 3], [255, 1])) == [1, 3]
    assert Prompt(labels([0, 255])).objects() == ()
    assert Prompt().objects() == ()


def test_rle_round_trip():
    mask = np.random.default_rng(0).random((7, 5)) > 0.5
    assert (decode_rle(encode_rle(mask)) == mask).all()


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (1, 9)])
def test_rle_is_read_as_text_and_as_bytes(size):
    mask = np.random.default_rng(1).random(size) > 0.5
    rle = encode_rle(mask)
    counts = rle["counts"]
    other = counts.decode() if isinstance(counts, bytes) else counts.encode()
    assert (decode_rle({**rle, "counts": other}) == mask).all()
    assert (decode_rle({**rle, "counts": counts}) == mask).all()


def test_a_label_video_gives_back_its_frames():
    video = LabelVideo(2, 2)
    first, second = labels([0, 1], [2, 2]), labels([0, 0], [0, 0])
    video.append(LabelFrame(first, 0, (1, 2)))
    video.append(LabelFrame(second, 1, (1, 2, 5)))
    assert len(video) == 2
    assert (video.labels(0) == first).all()
    assert (video.labels(1) == second).all()
    assert video.objects == (1, 2, 5)
    with pytest.raises(ValueError, match="3x1"):
        video.append(LabelFrame(labels([0, 0, 0]), 2))


def test_tracks_may_overlap_and_be_absent():
    left, right = np.array([[True, False]]), np.array([[True, True]])
    video = Tracks(1, 2, tracks=[Track(2, 0, 0.5), Track(7, 3, 0.4)])
    video.append(TrackFrame(0, (1, 2), {2: encode_rle(left), 7: encode_rle(right)}))
    video.append(TrackFrame(1, (1, 2), {7: encode_rle(left)}))
    assert video.masks(2).tolist() == [[[True, False]], [[False, False]]]
    assert video.masks(7).tolist() == [[[True, True]], [[True, False]]]
    with pytest.raises(ValueError, match="frame 2 is 1x2, the video is 2x1"):
        video.append(TrackFrame(2, (2, 1), {}))


def test_truth_of_tubes_is_one_entry_per_object():
    with pytest.raises(AssertionError):
        TubeLabels([torch.tensor([3])], [torch.zeros(2, 1, 4, 4, dtype=torch.bool)])


def test_detections():
    pytest.importorskip("supervision")
    video = LabelVideo(2, 2)
    video.append(LabelFrame(labels([0, 1], [2, 2]), 0, (1, 2)))
    assert video.detections(0).tracker_id.tolist() == [1, 2]


def test_a_prompt_of_another_size():
    with pytest.raises(ValueError, match="2x1 but the frame is 4x3"):
        check_prompt(Prompt(labels([0, 1])), (3, 4))

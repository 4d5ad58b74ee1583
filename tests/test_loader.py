from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tubelet.data.dataset import read_video
from tubelet.data.loader import (
    ClipStream,
    Interleaved,
    collate,
    collate_flow,
    collate_tubes,
    image_source,
    load,
    merged_source,
    synthetic_source,
    tube_source,
    video_source,
    view_source,
)
from tubelet.data.shapes import make_tubes
from tubelet.data.still_sets import MaskedImage
from tubelet.types import VOID, FlowLabels

DAVIS = Path(__file__).parents[2] / "shared/data/davis"


def constant(rng, *, value, shape=(2, 17, 18)):
    """Clips that say which source they come from."""
    return np.full((*shape, 3), value, np.uint8), np.full(shape, int(rng.integers(1, 5)), np.uint8)


def tubes(classes, *, frames=2, size=(5, 6), seen=True):
    """White clips whose objects fill the frame, if they are seen."""
    masks = np.full((len(classes), frames, *size), seen)
    return np.full((frames, *size, 3), 255, np.uint8), masks, np.array(classes, np.int64)


def tube_fingerprint(batches) -> list:
    return [
        (
            c.images.double().sum().item(),
            c.numbers.tolist(),
            [k.tolist() for k in t.classes],
            [m.sum().item() for m in t.masks],
        )
        for c, t in batches
    ]


def fingerprint(batches) -> list:
    return [(c.images.double().sum().item(), labels.ids.tolist()) for c, labels in batches]


@pytest.fixture(scope="module")
def stream():
    sources = [(synthetic_source((32, 33), 3), 4.0), (partial(constant, value=9, shape=(3, 32, 33)), 1.0)]
    return ClipStream(sources, batch=2, seed=4)


@pytest.fixture(scope="module")
def tube_stream():
    sources = [(tube_source((32, 33), 3), 1.0), (tube_source((40, 17), 3, objects=(2, 2), pace=2.0), 1.0)]
    return ClipStream(sources, batch=3, seed=4, collate=collate_tubes)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    root = tmp_path_factory.mktemp("video")
    for name in ("frames", "masks"):
        (root / name).mkdir()
    rng = np.random.default_rng(0)
    for t in range(6):
        mask = np.zeros((60, 80), np.uint8)
        mask[20:50, 10 * t : 10 * t + 25] = 255
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(root / f"frames/{t:05d}.png")
        Image.fromarray(mask).save(root / f"masks/{t:05d}.png")
    return read_video("made", root / "frames", root / "masks")


def test_a_batch_has_the_shapes_and_ranges_of_the_types(stream):
    clip, labels = stream[1]
    assert clip.images.shape == (2, 3, 3, 32, 33)
    assert clip.images.dtype == torch.float32
    assert 0 <= clip.images.min() < clip.images.max() <= 1
    assert labels.ids.shape == (2, 3, 32, 33)
    assert (labels.objects >= 1).all()


def test_resume_equals_uninterrupted(stream):
    whole = fingerprint(load(stream, stop=6))
    assert fingerprint(load(stream, start=4, stop=6)) == whole[4:]
    assert len({str(b) for b in whole}) == 6


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
def test_the_number_of_workers_does_not_change_the_stream(stream):
    here = fingerprint(load(stream, start=1, stop=7))
    assert fingerprint(load(stream, start=1, stop=7, workers=1)) == here
    assert fingerprint(load(stream, start=1, stop=7, workers=2)) == here


def test_the_stream_depends_on_the_seed(stream):
    other = ClipStream(list(zip(stream.sources, stream.shares.tolist(), strict=True)), batch=2, seed=5)
    assert not torch.equal(other[1][0].images, stream[1][0].images)


def test_batches_of_pairs_come_between_those_of_clips(stream):
    pictures = partial(constant, value=9, shape=(1, 40, 50))
    pairs = ClipStream([(view_source(pictures, (17, 33)), 1.0)], batch=3, seed=4, collate=collate_flow)
    batches = list(load(Interleaved(stream, pairs, count=2), start=1, stop=8))
    flows = [isinstance(labels, FlowLabels) for _, labels in batches]
    assert flows == [True, True, False, True, True, False, True]
    assert [clip.numbers.tolist() for clip, _ in batches if clip.numbers is not None] == [
        [0, 1, 2], [3, 4, 5], [2, 3], [6, 7, 8], [9, 10, 11], [4, 5], [12, 13, 14]
    ]  # fmt: skip
    torch.testing.assert_close(batches[2][0].images, stream[1][0].images)
    assert batches[0][1].flow.shape == (3, 2, 17, 33)
    assert torch.equal(batches[4][1].flow.nan_to_num(), pairs[3][1].flow.nan_to_num())


def test_sources_are_drawn_by_weight():
    stream = ClipStream([(partial(constant, value=0), 3.0), (partial(constant, value=1), 1.0)], batch=1)
    values = [int(stream.clip(i)[0].max()) for i in range(400)]
    assert 0.18 < np.mean(values) < 0.32


def test_wrong_streams_are_refused():
    source = partial(constant, value=0)
    for sources, batch in (([], 1), ([(source, 0.0)], 1), ([(source, 1.0)], 0)):
        with pytest.raises(ValueError, match="positive weights"):
            ClipStream(sources, batch=batch)
    with pytest.raises(ValueError, match="same `frames` and `size`"):
        collate([constant(np.random.default_rng(0), value=0, shape=(n, 4, 4)) for n in (1, 2)])


def test_collate_scales_images_and_does_not_count_void():
    rgb = np.zeros((2, 4, 5, 3), np.uint8)
    rgb[1, 2, 3] = 255, 0, 51
    ids = np.zeros((2, 4, 5), np.uint8)
    empty = ids.copy()
    ids[0, 0, 0], ids[1, 1, 1] = 2, VOID
    clip, labels = collate([(rgb, ids), (rgb, empty)])
    assert clip.images[0, 1, :, 2, 3].tolist() == pytest.approx([1, 0, 0.2])
    assert labels.objects.tolist() == [2, 0]
    assert labels.ids[0, 1, 1, 1] == VOID
    assert labels.ids.dtype == torch.int64


def test_tubes_of_different_sizes_are_padded_to_the_largest():
    clip, labels = collate_tubes([tubes([3, 1], size=(5, 9)), tubes([0], size=(7, 4))])
    assert clip.images.shape == (2, 2, 3, 7, 9)
    for b, (h, w) in enumerate([(5, 9), (7, 4)]):
        inside = torch.zeros(7, 9, dtype=torch.bool)
        inside[:h, :w] = True
        assert torch.equal(clip.images[b] == 1, inside.expand(2, 3, 7, 9))
        assert torch.equal(clip.images[b] == 0, ~inside.expand(2, 3, 7, 9))
        assert torch.equal(labels.masks[b], inside.expand(len(labels.classes[b]), 2, 7, 9))
    assert [k.tolist() for k in labels.classes] == [[3, 1], [0]]
    assert [k.dtype for k in labels.classes] == [torch.int64] * 2


def test_tubes_that_no_frame_shows_are_left_out():
    rgb, masks, classes = tubes([4, 2, 3])
    masks[0], masks[1, 0] = False, False
    _, labels = collate_tubes([(rgb, masks, classes), tubes([1, 1], seen=False), tubes([])])
    assert [k.tolist() for k in labels.classes] == [[2, 3], [], []]
    assert [m.shape for m in labels.masks] == [(2, 2, 5, 6), (0, 2, 5, 6), (0, 2, 5, 6)]


def test_tubes_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="same `frames`"):
        collate_tubes([tubes([1], frames=n) for n in (1, 2)])


def test_a_batch_of_one_size_is_the_same_pictures_by_either_collate():
    rgb, masks, classes = make_tubes(3, frames=2, size=(32, 32))
    ids = (masks * np.arange(1, len(masks) + 1)[:, None, None, None]).sum(0).astype(np.uint8)
    assert torch.equal(collate([(rgb, ids)])[0].images, collate_tubes([(rgb, masks, classes)])[0].images)


def test_a_stream_of_tubes_keeps_numbers_and_parts(tube_stream):
    whole = tube_fingerprint(load(tube_stream, stop=4))
    assert [numbers for _, numbers, _, _ in whole] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert tube_fingerprint(load(tube_stream, start=2, stop=4)) == whole[2:]
    sources = list(zip(tube_stream.sources, tube_stream.shares.tolist(), strict=True))
    parts = [ClipStream(sources, batch=3, seed=4, part=(i, 2), collate=collate_tubes) for i in range(2)]
    assert tube_fingerprint([parts[k % 2][k // 2] for k in range(4)]) == whole
    assert {c.images.shape[3:] for c, _ in load(tube_stream, stop=4)} >= {(40, 33)}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
def test_the_number_of_workers_does_not_change_tubes(tube_stream):
    here = tube_fingerprint(load(tube_stream, stop=4))
    assert tube_fingerprint(load(tube_stream, stop=4, workers=2)) == here


def test_video_and_image_sources_give_labelled_clips(video):
    still = MaskedImage(video.frame_paths[0], video.mask_paths[0])
    for source in (video_source([video], (49, 33), 4), image_source([still], (49, 33), 4)):
        first, again = (source(np.random.default_rng(3)) for _ in range(2))
        assert first[0].shape == (4, 49, 33, 3)
        assert set(np.unique(first[1])) == {0, 1}
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


class Square:
    """A still image whose object is of one colour; counts how often it is asked for."""

    def __init__(self, colour: int) -> None:
        self.colour, self.loaded = colour, 0

    def load(self):
        self.loaded += 1
        ids = np.zeros((40, 40), np.uint8)
        ids[10:30, 10:30] = 1
        return np.repeat(ids[..., None] * np.uint8(self.colour), 3, -1), ids


def test_half_of_what_covers_an_object_is_of_another_image():
    """Never of the same, where it would be an object and background at once."""
    alone, pair = [Square(250)], [Square(250), Square(120)]
    for seed in range(40):
        image_source(alone, (16, 16), 2, covered=1.0)(np.random.default_rng(seed))
        image_source(pair, (16, 16), 2, covered=1.0)(np.random.default_rng(seed))
    assert alone[0].loaded == 40
    assert 42 < sum(still.loaded for still in pair) < 60
    seen = sum(still.loaded for still in pair)
    for seed in range(10):
        image_source(pair, (16, 16), 2, covered=0.0)(np.random.default_rng(seed))
    assert sum(still.loaded for still in pair) == seen + 10


def test_objects_lost_by_the_crop_leave_no_gap_in_the_numbers(tmp_path):
    """Ten narrow objects side by side in a wide video, of which a square crop sees a few."""
    for name in ("frames", "masks"):
        (tmp_path / name).mkdir()
        ids = np.repeat(np.arange(1, 11, dtype=np.uint8), 40)[None].repeat(60, 0)
        image = Image.fromarray(ids) if name == "masks" else Image.new("RGB", (400, 60))
        image.save(tmp_path / name / "00000.png")
    source = video_source([read_video("wide", tmp_path / "frames", tmp_path / "masks")], (48, 48), 2)
    for seed in range(10):
        ids = source(np.random.default_rng(seed))[1]
        present = set(np.unique(ids[0])) - {0}
        assert present == set(range(1, len(present) + 1))
        assert len(present) < 6


def test_merging_adds_objects_by_chance_and_always_where_there_are_none(video):
    def nothing(rng):
        return np.zeros((3, 96, 96, 3), np.uint8), np.zeros((3, 96, 96), np.uint8)

    below, above = video_source([video], (96, 96), 3), synthetic_source((96, 96), 3, objects=(2, 2))
    never, always = (merged_source(below, above, p) for p in (0.0, 1.0))
    rng = np.random.default_rng
    assert max(never(rng(s))[1].max() for s in range(5)) == 1
    assert max(always(rng(s))[1].max() for s in range(5)) == 3
    assert merged_source(nothing, above, 0.0)(rng(0))[1].any()


@pytest.mark.skipif(not DAVIS.is_dir(), reason="no DAVIS beside the repository")
def test_davis_makes_training_clips():
    folders = (DAVIS / "JPEGImages/240p/bear", DAVIS / "Annotations/240p/bear")
    rgb, ids = video_source([read_video("bear", *folders)], (97, 97), 5)(np.random.default_rng(0))
    assert rgb.shape == (5, 97, 97, 3)
    assert set(np.unique(ids)) == {0, 1}

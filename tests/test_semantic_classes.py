"""Names, colours and ids of the semantic data sets; ids that nobody knows are refused, never guessed."""

import numpy as np
import pytest

from tubelet.data.semantic_classes import (
    CAMVID,
    CAMVID_VOID,
    CITYSCAPES,
    CITYSCAPES_TRAIN_IDS,
    NAMES,
    VSPW,
    VSPW_TRAIN_IDS,
    colours_of,
    palette,
    to_train_ids,
)


def row(*ids):
    return np.array([ids], np.uint8)


def test_how_many_and_which():
    assert [len(NAMES[name]) for name in ("vspw", "vipseg", "cityscapes", "camvid")] == [124, 124, 19, 11]
    assert all(len(set(names)) == len(names) for names in NAMES.values())
    # raw ids of VSPW, from 1
    assert [VSPW[i - 1] for i in (1, 29, 61, 76, 99, 110, 124)] == [
        "wall", "sky", "person", "cupboard_or_showcase_or_storage_rack", "other_machine", "clock", "train",
    ]  # fmt: skip
    by_id = dict(zip(CITYSCAPES_TRAIN_IDS, CITYSCAPES, strict=True))
    assert (by_id[7], by_id[24], by_id[26], by_id[33]) == ("road", "person", "car", "bicycle")
    assert CAMVID[CAMVID_VOID - 1] == "Bicyclist"
    assert tuple(range(1, 125)) == VSPW_TRAIN_IDS


@pytest.mark.parametrize("name", list(NAMES))
def test_colours_differ_and_void_is_black(name):
    colours = palette(name)
    count = len(NAMES[name])
    assert len(np.unique(colours[:count], axis=0)) == count
    assert not colours[count:].any()
    assert colours[:count].any(1).all()


def test_known_colours():
    assert palette("cityscapes")[[0, 13, 18]].tolist() == [[128, 64, 128], [0, 0, 142], [119, 11, 32]]
    assert palette("camvid")[[0, 4]].tolist() == [[128, 128, 128], [60, 40, 222]]
    with pytest.raises(ValueError, match="no classes of 'ade'; known are vspw"):
        palette("ade")
    assert (colours_of(CITYSCAPES) == palette("cityscapes")).all()
    assert len(np.unique(colours_of(["cat", "dog"])[:2], axis=0)) == 2


def test_ids_become_classes():
    assert to_train_ids(row(0, 1, 124, 255), VSPW_TRAIN_IDS).tolist() == [[255, 0, 123, 255]]
    ids = np.arange(34, dtype=np.uint8)[None]
    classes = to_train_ids(ids, CITYSCAPES_TRAIN_IDS)[0]
    assert classes[list(CITYSCAPES_TRAIN_IDS)].tolist() == list(range(19))
    assert (classes == 255).sum() == 34 - 19
    assert to_train_ids(row(0, 10, 11), range(11), void=[11]).tolist() == [[0, 10, 255]]
    assert to_train_ids(row(2, 0, 1), (2, 0, 1)).tolist() == [[0, 1, 2]]
    assert to_train_ids(np.zeros((0, 3), np.uint8), (1,)).shape == (0, 3)


def test_ids_that_nobody_knows():
    with pytest.raises(ValueError, match=r"a.png holds id 125, which is no class and not void; expected ids 1, 2, 3, "):
        to_train_ids(row(3, 125), VSPW_TRAIN_IDS, where="a.png")
    with pytest.raises(ValueError, match="ids 34, 254, which are no classes"):
        to_train_ids(row(34, 254, 33), CITYSCAPES_TRAIN_IDS)
    with pytest.raises(ValueError, match="holds id 255"):
        to_train_ids(row(255), range(11), void=[11])


def test_ids_without_sense():
    for ids in ((1, 1), (256,), (-1,), range(256)):
        with pytest.raises(ValueError, match="ids of classes differ"):
            to_train_ids(row(0), ids)
    with pytest.raises(ValueError, match="id 1 would be both"):
        to_train_ids(row(0), (0, 1), void=[1])

"""The lists that everything else indexes: lengths, a few known places, and maps that hit what they mean."""

import pytest

from tubelet.data.classes import COCO, COCO_TO, NAMES, OVIS, YTVIS_2019, YTVIS_2021, categories, dataset_of

SAME = {  # COCO's name -> what the targets call it, where that is not the same but for spaces and capitals
    "bicycle": {"motorbike", "bicycle"},
    "motorcycle": {"motorbike", "motorcycle"},
    "car": {"sedan", "car", "vehical"},
    "bus": {"vehical"},
    "truck": {"truck", "vehical"},
    "skis": {"snowboard"},
    "frisbee": {"flying_disc"},
}


def test_lengths_and_places():
    assert [len(names) for names in NAMES.values()] == [40, 40, 40, 25]
    assert all(len(set(names)) == len(names) for names in NAMES.values())
    assert (YTVIS_2019[0], YTVIS_2019[20], YTVIS_2019[39]) == ("person", "motorbike", "tennis_racket")
    assert (YTVIS_2021[0], YTVIS_2021[25], YTVIS_2021[39]) == ("airplane", "person", "zebra")
    assert (OVIS[0], OVIS[24]) == ("Person", "Vehical")
    assert len(COCO) == 80
    assert (COCO[1], COCO[13], COCO[44], COCO[67], COCO[90]) == (
        "person",
        "stop sign",
        "bottle",
        "dining table",
        "toothbrush",
    )


@pytest.mark.parametrize("dataset", NAMES)
def test_coco_maps_to_the_same_thing(dataset):
    for coco, target in COCO_TO[dataset].items():
        ours, theirs = COCO[coco], NAMES[dataset][target - 1].lower()
        assert theirs in SAME.get(ours, {ours.replace(" ", "_")}), f"{ours} -> {theirs}"
    assert sorted(map(len, COCO_TO.values())) == [17, 21, 23, 23]


def test_categories():
    assert categories("ovis")[0] == {"id": 1, "name": "Person", "supercategory": "object"}
    assert dataset_of({c["id"]: c["name"] for c in categories("ytvis_2019")}) == "ytvis_2019"
    assert dataset_of({1: "person"}) is None
    with pytest.raises(ValueError, match="known are ytvis_2019"):
        categories("ytvis_2020")

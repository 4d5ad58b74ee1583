"""The category names of the VIS data sets and of COCO, and which COCO categories stand for which of theirs.

An id is the position in the list, from 1, but for COCO, whose ids have gaps.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def _words(text: str, between: str | None = None) -> list[str]:
    return text.split(between)


YTVIS_2019 = _words(
    "person giant_panda lizard parrot skateboard sedan ape dog snake monkey hand rabbit duck cat cow fish train horse "
    "turtle bear motorbike giraffe leopard fox deer owl surfboard airplane truck zebra tiger elephant snowboard boat "
    "shark mouse frog eagle earless_seal tennis_racket"
)

YTVIS_2021 = _words(
    "airplane bear bird boat car cat cow deer dog duck earless_seal elephant fish flying_disc fox frog giant_panda "
    "giraffe horse leopard lizard monkey motorbike mouse parrot person rabbit shark skateboard snake snowboard "
    "squirrel surfboard tennis_racket tiger train truck turtle whale zebra"
)

YTVIS_2022 = YTVIS_2021

OVIS = _words(  # "Vehical" is how the annotation files spell it
    "Person Bird Cat Dog Horse Sheep Cow Elephant Bear Zebra Giraffe Poultry Giant_panda Lizard Parrot Monkey Rabbit "
    "Tiger Fish Turtle Bicycle Motorcycle Airplane Boat Vehical"
)

_COCO_NAMES = _words(
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, "
    "teddy bear, hair drier, toothbrush",
    ", ",
)
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}

COCO: dict[int, str] = dict(zip([i for i in range(1, 91) if i not in _COCO_GAPS], _COCO_NAMES, strict=True))

NAMES: dict[str, Sequence[str]] = {
    "ytvis_2019": YTVIS_2019,
    "ytvis_2021": YTVIS_2021,
    "ytvis_2022": YTVIS_2022,
    "ovis": OVIS,
}

# COCO id -> id of the data set, as the papers that train on both have it: bicycles count as motorbikes and skis as
# snowboards in YouTube-VIS; OVIS leaves out COCO's birds, and its vehicles are cars, buses and trucks.
_TO_2021 = {
    1: 26, 2: 23, 3: 5, 4: 23, 5: 1, 7: 36, 8: 37, 9: 4, 16: 3, 17: 6, 18: 9, 19: 19, 21: 7, 22: 12, 23: 2, 24: 40,
    25: 18, 34: 14, 35: 31, 36: 31, 41: 29, 42: 33, 43: 34,
}  # fmt: skip
COCO_TO: dict[str, dict[int, int]] = {
    "ytvis_2019": {
        1: 1, 2: 21, 3: 6, 4: 21, 5: 28, 7: 17, 8: 29, 9: 34, 17: 14, 18: 8, 19: 18, 21: 15, 22: 32, 23: 20, 24: 30,
        25: 22, 35: 33, 36: 33, 41: 5, 42: 27, 43: 40,
    },
    "ytvis_2021": _TO_2021,
    "ytvis_2022": _TO_2021,
    "ovis": {
        1: 1, 2: 21, 3: 25, 4: 22, 5: 23, 6: 25, 8: 25, 9: 24, 17: 3, 18: 4, 19: 5, 20: 6, 21: 7, 22: 8, 23: 9, 24: 10,
        25: 11,
    },
}  # fmt: skip


def categories(dataset: str) -> list[dict[str, Any]]:
    """What stands under "categories" in the files of a data set of `NAMES`. Raises `ValueError` for another."""
    if dataset not in NAMES:
        raise ValueError(f"there are no classes of {dataset!r}; known are {', '.join(NAMES)}")
    return [{"id": i, "name": name, "supercategory": "object"} for i, name in enumerate(NAMES[dataset], start=1)]


def dataset_of(names: Mapping[int, str]) -> str | None:
    """The data set of `NAMES` that has exactly these categories (id -> name); None if none has.

    2021 and 2022 share theirs: the answer is then "ytvis_2021"."""
    return next((name for name, known in NAMES.items() if dict(enumerate(known, start=1)) == dict(names)), None)

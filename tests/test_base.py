import numpy as np
import pytest

from tubelet.models.base import check_followed, check_input
from tubelet.types import Frame, Prompt

FRAME = Frame(np.zeros((4, 6, 3), np.uint8), 3)


def test_the_first_frame_sets_the_size():
    assert check_input(FRAME, Prompt(), begun=None, objects=()) == (4, 6)
    assert check_input(FRAME, Prompt(remove=(2,)), begun=(4, 6), objects=(1, 2)) == (4, 6)


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="frame 3 is 6x4 but the video began as 7x4"):
        check_input(FRAME, Prompt(), begun=(4, 7), objects=())
    with pytest.raises(ValueError, match="mask is 5x4"):
        check_input(FRAME, Prompt(np.zeros((4, 5), np.uint8)), begun=None, objects=())
    with pytest.raises(ValueError, match=r"object 9 is not being followed; those that are: \(1,\)"):
        check_input(FRAME, Prompt(remove=(9,)), begun=None, objects=(1,))
    check_followed(1, (1,))

"""Pickled checkpoints: what may be in one, and that nothing in it is run."""

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from tubelet.pickles import read_pickle


def written(content, path, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_plain_things(tmp_path, protocol):
    content = {
        "model": OrderedDict(a=np.arange(6, dtype=np.float32).reshape(2, 3), b=np.asfortranarray(np.eye(3)[:2])),
        "empty": np.zeros((0, 3), np.int64),
        "scalar": np.float32(2.5),
        "nothing": np.array(3.0),
        "big": np.arange(3, dtype=">f4"),
        "plain": [1, 2.5, "ü", b"\xff", b"", None, True, (1, {2})],
    }
    read = read_pickle(written(content, tmp_path / "x.pkl", protocol))
    assert list(read) == list(content)
    for name in ("a", "b"):
        assert read["model"][name].dtype == content["model"][name].dtype
        np.testing.assert_array_equal(read["model"][name], content["model"][name])
    assert read["empty"].shape == (0, 3)
    assert read["scalar"] == 2.5
    assert read["nothing"] == 3.0
    assert read["big"].tolist() == [0, 1, 2]
    assert read["plain"] == content["plain"]
    assert np.dtype("f4").isnative  # reading other byte orders leaves numpy's own types alone


def test_a_pickle_of_python_2(tmp_path):
    """Arrays written by Python 2 keep their bytes in a string and name an older module of numpy."""
    data = (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08"
    )
    (tmp_path / "x.pkl").write_bytes(data + np.array([1, -2.5], "<f4").tobytes() + b"tbs.")
    assert read_pickle(tmp_path / "x.pkl")["a"].tolist() == [1, -2.5]


class Evil:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    ("evil", "named"),
    [
        (Evil(os.system, "echo code was run"), "system"),
        (Evil(print, "code was run"), "print"),
        (Evil(eval, "print('code was run')"), "eval"),
        (Evil(np.load, "x.npy"), "load"),
        (Evil(getattr, np, "load"), "getattr"),
        (torch.zeros(1), "torch"),
        (np.random.RandomState(0), "random"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_else_is_run(tmp_path, capfd, evil, named, protocol):
    if isinstance(evil, Evil) and evil.call[0] is getattr:
        evil = Evil(getattr, "x", "upper")
    with pytest.raises(ValueError, match=named):
        read_pickle(written({"model": {"a": evil}}, tmp_path / "x.pkl", protocol))
    assert "code was run" not in capfd.readouterr().out


@pytest.mark.parametrize("array", [np.array([{}, "x"], object), np.array(["a"]), np.zeros(2, [("a", "f4")])])
def test_arrays_of_other_things(tmp_path, array):
    with pytest.raises(ValueError, match=r"x\.pkl"):
        read_pickle(written(array, tmp_path / "x.pkl"))


@pytest.mark.parametrize("data", [b"", b"\x80\x02", b"<html>", b"cnumpy\nndarray\n.", b"cnumpy\nndarray\n(tR."])
def test_no_whole_pickle(tmp_path, data):
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.pkl"):
        read_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize("kept", [20, 200, -1])
def test_a_truncated_pickle(tmp_path, kept):
    path = written({"a": np.zeros(100)}, tmp_path / "x.pkl")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="is not a whole pickle"):
        read_pickle(path)


def test_a_list_inside_itself(tmp_path):
    loop: list = [1]
    loop.append(loop)
    assert read_pickle(written(loop, tmp_path / "x.pkl"))[0] == 1

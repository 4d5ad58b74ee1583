"""Pickled checkpoints of detectron2's model zoo, read without running anything.

A pickle names the functions that rebuild it, which is how one can carry code. Here only those that rebuild numpy arrays
are known, and they are replaced by functions of our own that can do nothing else.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

PLAIN = (str, bytes, bool, int, float, type(None))


def read_pickle(path: str | Path) -> Any:
    """What a pickle of numpy arrays, plain containers, strings and numbers holds.

    Raises `ValueError` for anything else in it, or if it is damaged."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = _Plain(file, encoding="latin1").load()
    except _Refused as refused:
        raise ValueError(
            f"{path} holds a {refused}, and running what a file asks for is not safe; a checkpoint may hold only "
            f"arrays, plain containers, strings and numbers"
        ) from None
    except Exception as error:  # a damaged pickle raises anything from EOFError to MemoryError
        raise ValueError(f"{path} is not a whole pickle ({type(error).__name__})") from None
    _check(content, path)
    return content


class _Refused(pickle.UnpicklingError):
    pass


class _ArrayType:
    """Stands for `numpy.ndarray` where a pickle names it; cannot be called."""


def _new_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """The empty array that the pickle then fills in."""
    if kind is not _ArrayType:
        raise _Refused("array of an unusual type")
    return np.empty(0, np.float32)


def _array_of(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    """A whole array, as protocol 5 writes it."""
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, np.dtype) or axes is not None:
        raise _Refused("array of an unusual type")
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _dtype(code: Any, *flags: Any) -> np.dtype:
    # a copy, because the pickle goes on to set its byte order, and numpy has one float32 for everybody
    out = np.dtype(str(code), copy=True)
    if out.hasobject:
        raise _Refused("array of objects")
    return out


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes | str):
        raise _Refused("number of an unusual type")
    return np.frombuffer(_encode(data) if isinstance(data, str) else data, dtype)[0].item()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How bytes are written by the older protocols."""
    if encoding != "latin1" or not isinstance(text, str):
        raise _Refused("text in an unusual encoding")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _set(members: list) -> set:
    return set(members)


KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
}
for _module in ("builtins", "__builtin__"):
    KNOWN[_module, "bytes"] = _no_bytes
    KNOWN[_module, "set"] = _set
for _core in ("numpy.core", "numpy._core"):
    KNOWN[f"{_core}.multiarray", "_reconstruct"] = _new_array
    KNOWN[f"{_core}.multiarray", "scalar"] = _scalar
    KNOWN[f"{_core}.numeric", "_frombuffer"] = _array_of


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return KNOWN[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("reference to another file")


def _check(content: Any, path: Path) -> None:
    """Raises `ValueError` unless everything inside is plain; what stands in for numpy's names may have been left."""
    todo, seen = [content], set()
    while todo:
        x = todo.pop()
        if isinstance(x, dict | list | tuple | set) and id(x) not in seen:
            seen.add(id(x))
            todo += [*x, *x.values()] if isinstance(x, dict) else list(x)
        elif not isinstance(x, (dict, list, tuple, set, *PLAIN)) and not _is_numbers(x):
            raise ValueError(f"{path} holds a {type(x).__name__}, which no checkpoint needs")


def _is_numbers(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind in "biuf"

"""Reads JSON files that are larger than one wants in memory, element by element or piece by piece.

Plain, gzipped, or zipped (as submitted to an evaluation server); told apart by their first bytes.
"""

import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHUNK = 1 << 20  # bytes or characters per read
PIECE = 2 << 20  # bytes per piece of a list
TAIL = 1 << 18  # bytes at the end of what was read in which a place to cut is looked for


@contextmanager
def open_json(path: Path | str) -> Iterator[io.BufferedIOBase]:
    """The bytes of a JSON file, plain, gzipped, or the only .json of a zip.

    Raises `FileNotFoundError`, and `ValueError` if what is read inside the `with` is damaged."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a JSON file (plain, .gz or .zip)")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
        if magic[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                yield file
        elif magic == b"PK\x03\x04":
            with zipfile.ZipFile(path) as archive, archive.open(_only_json(archive, path)) as file:
                yield file  # pyright: ignore[reportReturnType]
        else:
            with path.open("rb") as file:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); copy or download it again") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a JSON file: it is no UTF-8 text") from None


def _only_json(archive: zipfile.ZipFile, path: Path) -> str:
    names = [name for name in archive.namelist() if name.endswith(".json") and not name.startswith("__MACOSX")]
    if len(names) != 1:
        raise ValueError(f"{path} holds {len(names)} .json files; a submission holds one, results.json")
    return names[0]


def stream_json(path: Path | str) -> Iterator[tuple[str | None, Any]]:
    """Yields the elements of a list as (None, element).

    Of an object, (key, element) for each element of each list in it, and (key, value) for what is no list. One
    element and about a megabyte of text are in memory at a time.

    Raises `FileNotFoundError`, or `ValueError` if it is damaged or not JSON."""
    with open_json(path) as file:
        text = _Text(io.TextIOWrapper(file, encoding="utf-8"))  # pyright: ignore[reportArgumentType]
        try:
            yield from text.items()
        except json.JSONDecodeError as error:
            where = text.passed + error.pos
            raise ValueError(f"{path} is not JSON ({error.msg} at character {where}); is it complete?") from None


def list_pieces(path: Path | str, size: int = PIECE) -> Iterator[bytes]:
    """Cuts a file that is a list of objects into JSON lists of about `size` bytes, without parsing it.

    It cuts where an object ends and one begins that has the same first key as the very first. Objects further inside
    must not begin with that key: then a piece may be no JSON, as it is where the file is damaged; `stream_json` reads
    such a file, or says what is wrong. A file that is no list of objects comes in one piece.

    Raises like `open_json`."""
    with open_json(path) as file:
        rest = file.read(size)
        start = re.match(rb'\s*\[\s*(\{\s*"[^"\\]*")', rest)
        if start is None:
            yield rest + file.read()
            return
        between = re.compile(rb"\}\s*(,\s*)\{\s*" + re.escape(start[1][1:].strip()) + rb"\s*:")
        rest, tail = rest[start.start(1) :], 0
        while True:
            cuts = list(between.finditer(rest, max(tail, len(rest) - TAIL)))
            if cuts:
                yield b"[%b]" % rest[: cuts[-1].start(1)]
                rest = rest[cuts[-1].end(1) :]
            # where there was no cut, there is none later either, but across the two
            tail = max(0, len(rest) - 1000)
            chunk = file.read(size)
            if not chunk:
                yield b"[" + rest
                return
            rest += chunk


class _Text:
    """A window on a text, moving forwards: `text[at:]` is what was read but not yet used."""

    def __init__(self, file: io.TextIOWrapper) -> None:
        self.file, self.text, self.at, self.passed = file, "", 0, 0
        self._decode = json.JSONDecoder().raw_decode

    def items(self) -> Iterator[tuple[str | None, Any]]:
        if self.peek() == "[":
            yield from ((None, element) for element in self.elements())
        elif self.peek() == "{":
            for _ in self.separated("{", "}"):
                key = self.value()
                self.expect(":")
                if self.peek() == "[":
                    yield from ((key, element) for element in self.elements())
                else:
                    yield key, self.value()
        else:
            self.fail("Expecting a list or an object")
        if self.peek():
            self.fail("Extra data")

    def elements(self) -> Iterator[Any]:
        return (self.value() for _ in self.separated("[", "]"))

    def separated(self, opening: str, closing: str) -> Iterator[None]:
        """Yields where each element begins; the caller reads it."""
        self.expect(opening)
        if self.peek() != closing:
            yield
            while self.peek() == ",":
                self.at += 1
                yield
        self.expect(closing)

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = self._decode(self.text, self.at)
            except json.JSONDecodeError:
                if not self.more():
                    raise
                continue
            length = end - self.at
            # where little is left, a number may go on: "1" with "." or "e+" behind it
            if len(self.text) - end > 3 or not self.more():
                self.at += length
                return value

    def peek(self) -> str:
        """The next character that is no space, without using it; nothing at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def expect(self, character: str) -> None:
        if self.peek() != character:
            self.fail(f"Expecting '{character}'")
        self.at += 1

    def fail(self, message: str) -> None:
        raise json.JSONDecodeError(message, self.text, self.at)

    def more(self) -> bool:
        """Reads on. As much as is waiting already, so that a very long element is not scanned too often."""
        rest = self.text[self.at :]
        chunk = self.file.read(max(CHUNK, len(rest)))
        self.passed, self.text, self.at = self.passed + self.at, rest + chunk, 0
        return bool(chunk)

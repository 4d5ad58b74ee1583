"""The folder that a command writes to."""

from pathlib import Path


def prepare_output(out: Path, *, overwrite: bool) -> None:
    """`make_output`, and empty of results of an earlier run. Raises `FileExistsError` if it holds some that would be
    mixed with the new ones."""
    old = [
        *out.glob("masks/*.png"),
        *out.glob("classes/*.png"),
        *(p for name in ("masks.json", "tracks.json", "overlay.mp4") if (p := out / name).exists()),
    ]
    if old and not overwrite:
        raise FileExistsError(f"{out} already holds results; choose another folder or add --overwrite")
    make_output(out)
    for path in old:
        path.unlink()


def make_output(out: Path) -> None:
    """Creates the output folder before any work is done. Raises `OSError` if it cannot be written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".writable").touch()
        (out / ".writable").unlink()
    except OSError as error:
        raise OSError(f"cannot write to {out}: {error.strerror or error}; choose another output folder") from None

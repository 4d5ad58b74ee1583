"""Gathers the pictures the shipped AOST weights learned from: wallpapers, textures and cut-outs of Debian packages.

    apt-get download gnome-backgrounds mate-backgrounds plasma-workspace-wallpapers ukui-wallpapers lomiri-wallpapers \\
        lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 supertuxkart-data tuxpaint-stamps-default
    for package in *.deb; do dpkg -x "$package" "packages/${package%%_*}"; done
    python examples/gather_photos.py packages photos
    tubelet train aost-cpu --data.photos photos

In Debian 12 these are 303 pictures and 389 cut-outs. All are free to use, under licences that differ: CC0, CC BY, CC
BY-SA, GPL; each package has them in usr/share/doc. Pictures of your own do as well: `--data.photos` takes any folder.
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

WALLPAPERS = (
    "gnome-backgrounds", "mate-backgrounds", "plasma-workspace-wallpapers", "ukui-wallpapers", "lomiri-wallpapers",
    "lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04",
)  # fmt: skip
TEXTURES = "supertuxkart-data/usr/share/games/supertuxkart/data/textures"
STAMPS = "tuxpaint-stamps-default"
NO_COLOURS = ("normal", "_nm", "nmap", "_n.", "gloss", "_s.", "mask", "light")  # textures that are not surfaces
NO_PHOTOS = ("symbols", "cartoon", "/flags")
LONG_EDGE = 1024


def main(packages: Path, out: Path) -> None:
    for kind in ("pictures", "cutouts"):
        (out / kind).mkdir(parents=True, exist_ok=True)
    number = 0
    for path, smallest in pictures(packages):
        number += shrink(path, out / "pictures" / f"{number:05d}.jpg", smallest)
    stamps = [path for path in files(packages / STAMPS, "png") if not any(word in str(path) for word in NO_PHOTOS)]
    kept = [path for path in stamps if is_cutout(path)]
    for path in kept:
        shutil.copy(path, out / "cutouts" / f"{path.parent.name}_{path.name}")
    print(f"{number} pictures and {len(kept)} cut-outs in {out}")


def pictures(packages: Path) -> Iterator[tuple[Path, int]]:
    """Files, and the shortest side that makes them worth having; of a wallpaper in many sizes the largest."""
    for package in WALLPAPERS:
        best: dict[Path, Path] = {}
        for path in files(packages / package, "jpg", "jpeg", "png", "webp"):
            key = path.parent if "/contents/images" in str(path) else path
            if key not in best or path.stat().st_size > best[key].stat().st_size:
                best[key] = path
        yield from ((path, 400) for path in sorted(best.values()))
    for path in files(packages / TEXTURES, "jpg", "jpeg", "png"):
        if path.parent.name == "textures" and not any(word in path.name.lower() for word in NO_COLOURS):
            yield path, 256


def files(folder: Path, *suffixes: str) -> list[Path]:
    return [path for suffix in suffixes for path in sorted(folder.rglob(f"*.{suffix}"))]


def shrink(source: Path, target: Path, smallest: int) -> bool:
    """Whether the picture is opaque and large enough; then it is saved."""
    with Image.open(source) as image:
        if min(image.size) < smallest or transparent(image):
            return False
        image.draft("RGB", (LONG_EDGE, LONG_EDGE))
        small = image.convert("RGB")
    small.thumbnail((LONG_EDGE, LONG_EDGE))
    small.save(target, quality=92)
    return True


def is_cutout(path: Path) -> bool:
    with Image.open(path) as image:
        return min(image.size) >= 48 and transparent(image)


def transparent(image: Image.Image) -> bool:
    return "A" in image.getbands() or "transparency" in image.info


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""`tubelet train`, `tubelet convert` and `tubelet list`: where weights come from."""

import inspect
from pathlib import Path

import tyro
from tyro.conf import Positional

from tubelet.cli.options import DEFAULT_MODEL, nearest


def train(arguments: list[str]) -> None:
    """Train a recipe; the same command again goes on where it stopped.

    tubelet train aost-cpu --run.minutes 90
    """
    from tubelet.recipes import vis, vos, vss

    known = {**vos.RECIPES, **vis.RECIPES, **vss.RECIPES}
    recipes = {name: (recipe.about, recipe) for name, recipe in known.items()}
    if arguments and not arguments[0].startswith("-") and arguments[0] not in recipes:
        raise ValueError(f"there is no recipe {arguments[0]!r}; {nearest(arguments[0], list(recipes))}")
    description = inspect.cleandoc(train.__doc__ or "")
    recipe = tyro.extras.overridable_config_cli(recipes, args=arguments, prog="tubelet train", description=description)
    name = next(argument for argument in arguments if argument in recipes)
    family = next(family for family in (vos, vis, vss) if name in family.RECIPES)
    folder = family.run(name, recipe)  # pyright: ignore[reportArgumentType]
    print(f"weights in {folder / 'weights.safetensors'}")


def convert(source: Positional[Path], out: Path, model: str, half: bool = False) -> None:
    """Convert an official checkpoint into safetensors, strictly: every key is used and none is missing.

        tubelet convert R50_AOTL_PRE_YTB_DAV.pth --model r50-aot-l --out r50-aot-l.safetensors

    Args:
        source: The authors' .pth file.
        out: The safetensors file to write.
        model: A name of `tubelet list`.
        half: Store half precision (the file is half as large).
    """
    from tubelet.weights import convert as run

    print(f"{run(source, model, out, half=half):,} parameters in {out}")


def list_models() -> None:
    """List the models: which have weights in the package, and where those come from."""
    from tubelet.weights import names, read_metadata, shipped

    for name in names():
        path = shipped(name)
        if name == "dis-flow":
            about = "training-free, needs no weights"
        elif path is None:
            about = "needs --weights (an official checkpoint or your own)"
        else:
            about = "weights in the package: " + read_metadata(path).get("about", "")
        default = "  (default)" if name == DEFAULT_MODEL else ""
        print(f"{name:14s}  {about}{default}")

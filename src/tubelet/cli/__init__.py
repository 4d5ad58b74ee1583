"""The command `tubelet`: the list of commands, and what runs them.

Nothing heavy is imported before a command has its arguments, so `--help` answers at once. The commands are in the
files of this folder, called through their modules so that `tubelet.cli.predict` is always the module.
"""

import os
import sys
import warnings
from collections.abc import Callable

import tyro

import tubelet
from tubelet.cli import bench, data, evaluate, predict, score, train
from tubelet.cli.options import nearest

COMMANDS: dict[str, Callable] = {
    "predict": predict.predict,
    "score": score.score,
    "eval": evaluate.evaluate,
    "train": train.train,
    "make-ytvis": data.make_ytvis,
    "check": data.check,
    "convert": train.convert,
    "bench": bench.bench,
    "list": train.list_models,
    "demo": bench.demo,
}


def usage() -> str:
    """The page of `tubelet --help`."""
    lines = [
        f"tubelet {tubelet.__version__}: segment, track and label what moves in a video.",
        "",
        "usage: tubelet COMMAND [OPTIONS]",
        "",
    ]
    lines += [f"  {name:10s}  {(f.__doc__ or '').splitlines()[0]}" for name, f in COMMANDS.items()]
    return "\n".join([*lines, "", "`tubelet COMMAND --help` says everything about one of them."])


def dispatch(arguments: list[str]) -> None:
    """Runs one command line. Raises what the command raises."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        print(tubelet.__version__)
    elif name not in COMMANDS:
        raise ValueError(f"there is no command {name!r}; {nearest(name, list(COMMANDS))}")
    elif name == "train":
        train.train(rest)
    else:
        tyro.cli(COMMANDS[name], args=rest, prog=f"tubelet {name}")


def main() -> None:
    """Entry point: errors of the user are one sentence on stderr and exit status 1 (2 for a misspelt option).

    `TUBELET_DEBUG=1` shows the traceback instead."""
    warnings.showwarning = lambda message, *rest: print(f"tubelet: note: {message}", file=sys.stderr)
    try:
        dispatch(sys.argv[1:])
    except BrokenPipeError:  # `tubelet ... | head`
        sys.stderr.close()
    except KeyboardInterrupt:
        print("tubelet: stopped; what was finished is kept", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError, MemoryError, RuntimeError) as error:
        if os.environ.get("TUBELET_DEBUG"):
            raise
        print(f"tubelet: {str(error) or type(error).__name__}", file=sys.stderr)
        sys.exit(1)

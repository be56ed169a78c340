"""What commands share: options, error messages, progress bars, checks of arguments.

torch is imported inside functions, so that help stays quick.
"""

from __future__ import annotations

import math
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from retouch.errors import OptionError, RetouchError

V = TypeVar("V")

# Errors

_MEMORY = (
    "the device's memory did not suffice ({}); nothing that was saved is lost. Take a smaller picture, a narrower type "
    "(--dtype, --storage), or a smaller share of memory for recordings (--memory, --device-memory)"
)
_DEFECT = "this is a defect of Retouch, not of what you asked for: please report it, with the lines above"


@contextmanager
def usage_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Exit with 2 for arguments that cannot be used: for errors of these kinds, or any RetouchError."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, kinds or RetouchError):
            raise
        note(str(error) or type(error).__name__)
        raise typer.Exit(2) from error


@contextmanager
def failures() -> Iterator[None]:
    """Exit with 1 for what goes wrong: in one line where the caller or the machine can do something about it (an
    OSError is a full disk or a missing permission), else as our defect, with the traceback. With 130 on Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        note("interrupted; sessions keep their last state, files of results what was measured")
        raise typer.Exit(130) from error
    except (typer.Exit, typer.Abort, typer.TyperException, BrokenPipeError):
        raise
    except Exception as error:
        from retouch.kernels.devices import lacks_memory

        said = str(error) or type(error).__name__
        if lacks_memory(error) and not isinstance(error, RetouchError | OSError):
            said = _MEMORY.format(said.splitlines()[0])
        elif not isinstance(error, RetouchError | OSError):
            traceback.print_exc()
            said = _DEFECT
        note(said)
        raise typer.Exit(1) from error


def note(text: str) -> None:
    """Something worth knowing, on stderr."""
    typer.echo(f"retouch: {text}", err=True)


# Progress


@contextmanager
def steps_bar(first: str, counted: ProgressColumn | None = None) -> Iterator[Callable[[float, float, str], None]]:
    """A bar on stderr for several long tasks, one after the other; `first` is said until the first one reports.

    counted: how it is shown what is done; None: by steps.
    """
    columns = TextColumn("{task.description}", markup=False), BarColumn(), counted or MofNCompleteColumn()
    left = TextColumn("time left"), TimeRemainingColumn()
    with Bar(*columns, *left, console=Console(stderr=True)) as shown:
        task = shown.add_task(first, total=None)
        last = math.inf

        def show(done: float, total: float, what: str) -> None:
            nonlocal last
            if done < last:
                shown.reset(task)
            last = done
            shown.update(task, description=what, completed=done, total=total)

        yield show


def quiet_libraries() -> None:
    """Leave the terminal to our own bar and messages while a model is loaded."""
    from retouch.models.extras import require

    for name in ("diffusers", "transformers"):
        logging = require(name, "diffusers").utils.logging
        logging.disable_progress_bar()
        logging.set_verbosity_error()


# Arguments


def pairs(option: str, given: Sequence[str] | None, of: Callable[[str], V]) -> dict[str, V] | None:
    """Values by name from arguments NAME=VALUE of an option; None for none. OptionError for what is none of them."""
    found = {}
    for each in given or ():
        name, _, value = each.partition("=")
        try:
            if not (name and value):
                raise ValueError
            found[name] = of(value)
        except ValueError:
            raise OptionError(f"{option} {each} is not NAME={'NUMBER' if of is float else 'VALUE'}") from None
    return found or None


def check_picture_file(path: Path) -> None:
    """ImageError, OptionError unless a picture can be written to `path`."""
    from retouch.editing.images import format_of

    format_of(path)
    check_file(path)


def check_file(path: Path) -> None:
    """OptionError unless a file can be written to `path`."""
    if not path.parent.is_dir():
        raise OptionError(f"cannot write {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise OptionError(f"cannot write {path}: it is a folder")
    touched = path if path.exists() else path.parent
    if not os.access(touched, os.W_OK):
        raise OptionError(f"cannot write {path}: {touched.absolute()} may not be written to")

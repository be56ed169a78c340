"""What commands share: options, error messages, progress bars, checks of arguments.

torch is imported inside functions, so that help stays quick.
"""

from __future__ import annotations

import math
import os
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from typer import Option

from retouch.bench.options import Storage
from retouch.errors import OptionError, RetouchError

if TYPE_CHECKING:
    from retouch.editing.archive import Progress

V = TypeVar("V")

AnyStorage = Annotated[Storage | None, Option(help="How recorded float32 rows are kept (fp32).")]
DeviceMemory = Annotated[
    str | None,
    Option(help="Memory of an accelerator for recordings before they go to the host's (40 % of what is free there)."),
]
Memory = Annotated[
    str | None, Option(help="Memory for recordings before they go to files, such as 4GB (40 % of what is free).")
]
Threads = Annotated[int | None, Option(min=1, help="Threads of PyTorch and the kernels.")]

_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?(?:([KMGT])(I?)B?|B)", re.IGNORECASE)


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
    OSError is a full disk or a missing permission), else as our defect, with the traceback.
    """
    try:
        yield
    except (typer.Exit, typer.Abort, typer.TyperException, BrokenPipeError):
        raise
    except Exception as error:
        from retouch.kernels.devices import lacks_memory

        if isinstance(error, RetouchError | OSError):
            note(str(error) or type(error).__name__)
        elif lacks_memory(error):
            note(_MEMORY.format((str(error) or type(error).__name__).splitlines()[0]))
        else:
            traceback.print_exc()
            note(_DEFECT)
        raise typer.Exit(1) from error


def note(text: str) -> None:
    """Something worth knowing, on stderr."""
    typer.echo(f"retouch: {text}", err=True)


# Progress


def bar(done: ProgressColumn) -> Bar:
    """A bar on stderr, with how much is done and the time left."""
    return Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        done,
        TextColumn("time left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


@contextmanager
def steps_bar(first: str) -> Iterator[Progress]:
    """A bar for several long tasks, one after the other; `first` is said until the first one reports."""
    with bar(MofNCompleteColumn()) as shown:
        task = shown.add_task(first, total=None)
        last = math.inf

        def show(done: int, total: int, what: str) -> None:
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


def set_threads(threads: int | None) -> None:
    """Use that many threads; None: as many as PyTorch does by itself."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def byte_count(text: str | None) -> int | None:
    """A size such as "4GB", "512 MB" or "2GiB" in bytes, 0 as it is; None stays None. OptionError for other text."""
    if text is None:
        return None
    found = _SIZE.fullmatch(text.strip())
    if found:
        number, unit, binary = found.groups()
        return int(float(number) * (1024 if binary else 1000) ** " KMGT".index((unit or " ").upper()))
    if text.strip() == "0":
        return 0
    raise OptionError(f"{text!r} is no size; write 4GB or 512MB, for example")


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
    """OptionError unless a picture can be written to `path`."""
    from PIL import Image

    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise OptionError(f"cannot write {path}: no picture format has the suffix {path.suffix!r}; use .png")
    if not path.parent.is_dir():
        raise OptionError(f"cannot write {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise OptionError(f"cannot write {path}: it is a folder")
    if not os.access(path.parent, os.W_OK):
        raise OptionError(f"cannot write {path}: the folder {path.parent.absolute()} may not be written to")

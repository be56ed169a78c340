"""What commands are asked for: options that several have, and for each suite a class whose fields are its options."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from typer import Argument, BadParameter, Option

if TYPE_CHECKING:
    from collections.abc import Sequence
else:
    Sequence = list  # as help names it

Backend = Literal["auto", "cpu", "triton", "reference"]
Dtype = Literal["float32", "bfloat16", "float16"]
AnyDtype = Literal[Dtype, "int8"]
Preset = Literal["paper", "balanced", "fast", "exact"]
Products = Literal[Dtype, "tf32"]
Texts = Literal["recomputed", "recorded"]
Peer = Literal["openvino", "onnxruntime"]
Storage = Literal["fp32", "bf16", "fp16", "int8", "auto"]

_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?(?:([KMGT])(I?)B?|B)", re.IGNORECASE)


def byte_count(text: str) -> int:
    """A size such as "4GB", "512 MB" or "2GiB" in bytes, 0 as it is; BadParameter for other text."""
    found = _SIZE.fullmatch(text.strip())
    if found:
        number, unit, binary = found.groups()
        return int(float(number) * (1024 if binary else 1000) ** " KMGT".index((unit or " ").upper()))
    if text.strip() == "0":
        return 0
    raise BadParameter(f"{text!r} is no size; write 4GB or 512MB, for example")


def size_text(count: int, digits: int = 0) -> str:
    """Bytes as MB, with so many digits after the point, or GB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.{digits}f} MB"


def size(help: str) -> Any:
    """An option that is a size in bytes."""
    return Option(parser=byte_count, metavar="SIZE", help=help)


def choice(of: Any, help: str) -> Any:
    """An option that may be repeated, each time one of the values of a Literal."""
    names = get_args(of)

    def checked(name: str) -> str:
        if name not in names:
            raise BadParameter(f"{name!r} is not one of {', '.join(map(repr, names))}")
        return name

    return Option(parser=checked, metavar=f"[{'|'.join(names)}]", help=f"{help}; may be repeated.")


def _use_threads(count: int | None) -> int | None:
    if count is not None:
        import torch

        torch.set_num_threads(count)
    return count


POLICY_HELP = "How far edits spread (see docs/guide/policies.md)"

AnyStorage = Annotated[Storage | None, Option(help="How recorded float32 rows are kept (fp32).")]
BackendName = Annotated[Backend, Option(help="Kernels to use.")]
DeviceMemory = Annotated[
    int | None,
    size("Memory of an accelerator for recordings before they go to the host's (40 % of what is free there)."),
]
DeviceName = Annotated[
    str, Option(help="Where to run, as PyTorch names it: cpu, cuda, mps; auto: an accelerator that works, else cpu.")
]
Dilate = Annotated[int | None, Option(min=0, help="Dilation of the mask in its own pixels.")]
DtypeName = Annotated[Dtype, Option(help="Type of weights and activations.")]
Masks = Annotated[Sequence[Path], Option(help="Image file, white where edited; may be repeated.")]
Memory = Annotated[
    int | None, size("Memory for recordings before they go to files, such as 4GB (40 % of what is free).")
]
Names = Annotated[Sequence[str], Option(help="Network or pipeline; may be repeated.")]
NoCompile = Annotated[bool, Option("--no-compile", help="Leave torch.compile out of the dense baselines.")]
Policies = Annotated[Sequence[str], choice(Preset, POLICY_HELP)]
PolicyName = Annotated[Preset, Option(help=f"{POLICY_HELP}.")]
Rounds = Annotated[int, Option(min=1, help="Rounds that are counted.")]
Shares = Annotated[Sequence[float], Option(help="Share of the image edited, (0, 1] (0.012); may be repeated.")]
Threads = Annotated[int | None, Option(min=1, callback=_use_threads, help="Threads of PyTorch and the kernels.")]
Tiny = Annotated[bool, Option("--tiny", help="Few channels and a small image: to try things out.")]

HALOS = (0, 1, 2, 3, 5, 8, 12, 16, 24, 32, 48)


@dataclass(frozen=True)
class Networks:
    """Time dense, record and update of named networks, interleaved in one process.

    The speed-up is against the best dense run of eager NCHW, eager channels-last,
    torch.compile and the peers. Weights are random, so read the error columns as a check of
    the arithmetic, not as image quality.
    """

    model: Names = ("ddpm-256",)
    edit: Shares = ()
    mask: Masks = ()
    policy: Policies = ("balanced",)
    dtype: Annotated[Sequence[str], choice(AnyDtype, "Type of weights and activations, or of products")] = ("float32",)
    device: DeviceName = "cpu"
    backend: BackendName = "auto"
    dilate: Dilate = None
    text: Annotated[Sequence[str], choice(Texts, "What becomes of texts in joint attention")] = ()
    no_compile: NoCompile = False
    peer: Annotated[Sequence[str], choice(Peer, "A further dense run by another engine")] = ()
    repeat: Rounds = 5
    tiny: Tiny = False


@dataclass(frozen=True)
class Sessions:
    """Time whole edits of diffusion pipelines, from picture to picture: record once, then edits.

    They are held against the dense pipeline with the same replacement outside the
    region, plain image to image, and crop and stitch. Weights are random.
    """

    model: Names = ("ddpm-256",)
    edit: Shares = ()
    mask: Masks = ()
    policy: PolicyName = "fast"
    steps: Annotated[Sequence[int], Option(min=1, max=1000, help="Steps (the pipeline's); may be repeated.")] = ()
    dtype: DtypeName = "float32"
    storage: Annotated[Storage, Option(help="How recorded float32 rows are kept.")] = "fp32"
    memory: Memory = None
    backend: BackendName = "auto"
    repeat: Rounds = 1
    tiny: Tiny = False


@dataclass(frozen=True)
class Quality:
    """Measure how close edits of a trained model come to dense ones, with several methods.

    A fixed set of edits is made on pictures that the built-in model draws or on those
    of --images; each is held against the dense model. A report has a plot and a sheet
    of pictures beside it.
    """

    model: Annotated[str, Option(help="A trained diffusion model.")] = "builtin/emoji-256"
    images: Annotated[Path | None, Option(help="Folder of PNG files named after their prompts (drawn anew).")] = None
    count: Annotated[int, Option(min=1, help="Number of edits.")] = 100
    method: Annotated[Sequence[str], Option(help="Policy or variant; may be repeated (all).")] = ()
    backend: BackendName = "auto"


@dataclass(frozen=True)
class Halo:
    """Measure error and time of updates against their halo, on a photograph.

    The halo is what is computed around an edit, in pixels. Where a network sees
    further, an update is an approximation; its error is that to the dense result,
    with trained weights, for a brush stroke and a pasted patch.
    """

    model: Annotated[str, Option(help="Built-in super-resolution network (see docs/guide/models.md).")] = (
        "builtin/realesrgan-x4"
    )
    dilate: Annotated[Sequence[int], Option(min=0, help="Halo in pixels; may be repeated.")] = HALOS
    policy: Annotated[Literal["paper", "balanced", "fast"], Option(help=f"{POLICY_HELP}, with other halos.")] = (
        "balanced"
    )
    side: Annotated[int, Option(min=32, max=512, help="Width and height of the photograph in pixels.")] = 256
    backend: BackendName = "auto"
    no_compile: NoCompile = False
    repeat: Rounds = 3


@dataclass(frozen=True)
class Forecast:
    """Predict dense runs and updates on a device, beside SIGE's published measurements.

    Nothing is run: a cost model says what they would take. Without --edit and --mask the
    edits are those that SIGE's authors measured.
    """

    model: Names = ("ddpm-256",)
    device: Annotated[Sequence[str], Option(help="rtx3090, a100, h100 or m1pro; may be repeated.")] = ("rtx3090",)
    edit: Shares = ()
    mask: Masks = ()
    policy: Policies = ("paper",)
    dtype: Annotated[Products, Option(help="Type of the products.")] = "float32"
    dilate: Dilate = None
    tiny: Tiny = False


@dataclass(frozen=True)
class Tiles:
    """Time tiles of Triton's kernels on the GPU at hand, and say which to put into `tiles.py`.

    Candidates that spill registers, need more shared memory than there is or multiply
    16-bit numbers without tensor cores are left out before anything is timed.
    """

    architecture: Annotated[
        str | None, Option("--list", help="Print the candidates for sm_80, sm_90 ..., and exit; needs no GPU.")
    ] = None


@dataclass(frozen=True)
class Load:
    """What simulated people do."""

    people: Annotated[int, Option(min=1, help="How many come.")] = 8
    rate: Annotated[float, Option(min=0.001, help="How many come in a second in the mean.")] = 1.0
    strokes: Annotated[int, Option(min=1, help="What each of them paints.")] = 10
    think: Annotated[float, Option(min=0, help="Seconds between strokes in the mean.")] = 2.0
    undo: Annotated[float, Option(min=0, max=1, help="Share of strokes before which one undoes.")] = 0.1
    reopen: Annotated[float, Option(min=0, max=1, help="And opens the page anew.")] = 0.05
    size: Annotated[int, Option(min=8, help="Side of pictures in pixels.")] = 64
    stroke: Annotated[int, Option(min=1, help="Side of a stroke's square in pixels.")] = 8
    steps: Annotated[int | None, Option(min=1, help="Steps of the model (its own).")] = None
    seed: Annotated[int, Option(help="Of everything that is random.")] = 0


@dataclass(frozen=True, kw_only=True)
class Serve(Load):
    """Put simulated people on a running server, and time their strokes."""

    url: Annotated[str, Argument(help="Address of a running server, as http://127.0.0.1:8188.")]
    token: Annotated[str | None, Option(envvar="RETOUCH_TOKEN", help="What opens it.")] = None
    against: Annotated[str | None, Option(help="Address of another server to put the same load on, a dense one.")] = (
        None
    )
    against_token: Annotated[str | None, Option(envvar="RETOUCH_AGAINST_TOKEN", help="What opens that one.")] = None
    model: Annotated[str | None, Option(help="Of those of the server (its first).")] = None


@dataclass(frozen=True)
class Demo:
    """Edit a photograph that is enlarged and a generated emoji, densely and incrementally.

    Three edits each, one on top of the other, with trained networks; prints a table
    and writes the pictures. --policy is for the emoji: the enlargement is exact.
    """

    output: Annotated[Path, Option(help="Folder for the pictures; made if missing.")] = Path("demo")
    policy: PolicyName = "balanced"
    device: DeviceName = "auto"
    backend: BackendName = "auto"
    tiny: Tiny = False

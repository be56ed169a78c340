"""Retouch: incremental inference for generative image editing.

Record one run of a network, then compute only what an edit changes. See `retouch.compile`.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retouch.archive import ArchiveError as ArchiveError
    from retouch.capture import CaptureError as CaptureError
    from retouch.diffusion import Editor as Editor
    from retouch.diffusion import PipelineError as PipelineError
    from retouch.diffusion import SchedulerError as SchedulerError
    from retouch.explain import Explanation as Explanation
    from retouch.gan import LabelEditor as LabelEditor
    from retouch.gan import Upscaler as Upscaler
    from retouch.images import ImageError as ImageError
    from retouch.opening import open as open
    from retouch.program import Incremental as Incremental
    from retouch.program import InputError as InputError
    from retouch.program import RegionError as RegionError
    from retouch.program import compile as compile
    from retouch.recording import Recording as Recording
    from retouch.recording import UndoError as UndoError
    from retouch.region import Policy as Policy
    from retouch.region import Region as Region
    from retouch.session import Session as Session
    from retouch.store import StoreError as StoreError
    from retouch.weights import WeightsChangedError as WeightsChangedError

__version__ = version("retouch")

# Names are imported when they are first used: the command line answers without loading PyTorch.
_HOMES = {
    "ArchiveError": "archive",
    "CaptureError": "capture",
    "Editor": "diffusion",
    "Explanation": "explain",
    "ImageError": "images",
    "Incremental": "program",
    "InputError": "program",
    "LabelEditor": "gan",
    "PipelineError": "diffusion",
    "Policy": "region",
    "Recording": "recording",
    "Region": "region",
    "RegionError": "program",
    "SchedulerError": "diffusion",
    "Session": "session",
    "StoreError": "store",
    "UndoError": "recording",
    "Upscaler": "gan",
    "WeightsChangedError": "weights",
    "compile": "program",
    "open": "opening",
}

__all__ = [*_HOMES]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'retouch' has no attribute {name!r}")
        found = getattr(import_module(f"retouch.{_HOMES[name]}"), name)
        globals()[name] = found
        return found

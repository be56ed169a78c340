"""Retouch: incremental inference for generative image editing.

Record one run of a network, then compute only what an edit changes. See `retouch.compile`.
"""

from importlib.metadata import version

from retouch.archive import ArchiveError
from retouch.capture import CaptureError
from retouch.diffusion import Editor, PipelineError, SchedulerError
from retouch.diffusion import open_session as open
from retouch.explain import Explanation
from retouch.images import ImageError
from retouch.program import Incremental, InputError, RegionError, compile
from retouch.recording import Recording, UndoError
from retouch.region import Policy, Region
from retouch.session import Session
from retouch.store import StoreError
from retouch.weights import WeightsChangedError

__version__ = version("retouch")

__all__ = [
    "ArchiveError",
    "CaptureError",
    "Editor",
    "Explanation",
    "ImageError",
    "Incremental",
    "InputError",
    "PipelineError",
    "Policy",
    "Recording",
    "Region",
    "RegionError",
    "SchedulerError",
    "Session",
    "StoreError",
    "UndoError",
    "WeightsChangedError",
    "compile",
    "open",
]

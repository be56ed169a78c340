"""Retouch: incremental inference for generative image editing.

Record one run of a network, then compute only what an edit changes. See `retouch.compile`.
"""

from importlib.metadata import version

from retouch.capture import CaptureError
from retouch.explain import Explanation
from retouch.program import Incremental, InputError, RegionError, compile
from retouch.recording import Recording, UndoError
from retouch.region import Policy, Region
from retouch.weights import WeightsChangedError

__version__ = version("retouch")

__all__ = [
    "CaptureError",
    "Explanation",
    "Incremental",
    "InputError",
    "Policy",
    "Recording",
    "Region",
    "RegionError",
    "UndoError",
    "WeightsChangedError",
    "compile",
]

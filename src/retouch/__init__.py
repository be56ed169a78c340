"""Retouch: incremental inference for generative image editing.

Record one run of a network, then compute only what an edit changes. See `retouch.compile`.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retouch.bench.report import FileError as FileError
    from retouch.editing.canvas.canvas import Canvas as Canvas
    from retouch.editing.choice import VariantsError as VariantsError
    from retouch.editing.diffusion import Area as Area
    from retouch.editing.diffusion import Editor as Editor
    from retouch.editing.diffusion import PipelineError as PipelineError
    from retouch.editing.diffusion import SchedulerError as SchedulerError
    from retouch.editing.gan import LabelEditor as LabelEditor
    from retouch.editing.gan import Upscaler as Upscaler
    from retouch.editing.images import ImageError as ImageError
    from retouch.editing.jobs import Frame as Frame
    from retouch.editing.jobs import Job as Job
    from retouch.editing.jobs import SessionError as SessionError
    from retouch.editing.kinds import load as load
    from retouch.editing.kinds import open as open
    from retouch.editing.lease import HeldError as HeldError
    from retouch.editing.lease import LostError as LostError
    from retouch.editing.manifest import ArchiveError as ArchiveError
    from retouch.editing.session import Session as Session
    from retouch.errors import FallbackWarning as FallbackWarning
    from retouch.errors import OptionError as OptionError
    from retouch.errors import ReplayWarning as ReplayWarning
    from retouch.errors import RetouchError as RetouchError
    from retouch.frontend.capture import CaptureError as CaptureError
    from retouch.frontend.signature import InputError as InputError
    from retouch.incremental import Incremental as Incremental
    from retouch.incremental import UnsupportedError as UnsupportedError
    from retouch.incremental import compile as compile
    from retouch.ir.layout import tokens as tokens
    from retouch.kernels.devices import DeviceError as DeviceError
    from retouch.kernels.protocol import BackendError as BackendError
    from retouch.kernels.protocol import BackendImportError as BackendImportError
    from retouch.kernels.protocol import BackendNameError as BackendNameError
    from retouch.models.checkpoints import WeightFileError as WeightFileError
    from retouch.models.extras import ExtraError as ExtraError
    from retouch.passes.by_area import AreaError as AreaError
    from retouch.plan.explain import Explanation as Explanation
    from retouch.plan.policy import Policy as Policy
    from retouch.plan.policy import PolicyError as PolicyError
    from retouch.plan.region import Region as Region
    from retouch.plan.region import RegionError as RegionError
    from retouch.runtime.state.in_place import Recording as Recording
    from retouch.runtime.state.in_place import UndoError as UndoError
    from retouch.runtime.store import StoreError as StoreError
    from retouch.runtime.weights import WeightsChangedError as WeightsChangedError

__version__ = version("retouch")

# Names are imported when they are first used: the command line answers without loading PyTorch.
_HOMES = {
    "Area": "editing.diffusion",
    "AreaError": "passes.by_area",
    "ArchiveError": "editing.manifest",
    "HeldError": "editing.lease",
    "LostError": "editing.lease",
    "BackendError": "kernels.protocol",
    "BackendImportError": "kernels.protocol",
    "BackendNameError": "kernels.protocol",
    "Canvas": "editing.canvas.canvas",
    "CaptureError": "frontend.capture",
    "DeviceError": "kernels.devices",
    "Editor": "editing.diffusion",
    "Explanation": "plan.explain",
    "ExtraError": "models.extras",
    "FallbackWarning": "errors",
    "Frame": "editing.jobs",
    "FileError": "bench.report",
    "ImageError": "editing.images",
    "Incremental": "incremental",
    "InputError": "frontend.signature",
    "Job": "editing.jobs",
    "LabelEditor": "editing.gan",
    "OptionError": "errors",
    "PipelineError": "editing.diffusion",
    "Policy": "plan.policy",
    "Recording": "runtime.state.in_place",
    "Region": "plan.region",
    "PolicyError": "plan.policy",
    "RegionError": "plan.region",
    "SchedulerError": "editing.diffusion",
    "Session": "editing.session",
    "SessionError": "editing.jobs",
    "StoreError": "runtime.store",
    "ReplayWarning": "errors",
    "RetouchError": "errors",
    "UnsupportedError": "incremental",
    "UndoError": "runtime.state.in_place",
    "Upscaler": "editing.gan",
    "VariantsError": "editing.choice",
    "WeightFileError": "models.checkpoints",
    "WeightsChangedError": "runtime.weights",
    "compile": "incremental",
    "load": "editing.kinds",
    "open": "editing.kinds",
    "tokens": "ir.layout",
}

__all__ = [*_HOMES]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'retouch' has no attribute {name!r}")
        found = getattr(import_module(f"retouch.{_HOMES[name]}"), name)
        globals()[name] = found
        return found

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
    from retouch.editing.home import LostError as LostError
    from retouch.editing.images import ImageError as ImageError
    from retouch.editing.jobs import Frame as Frame
    from retouch.editing.jobs import Job as Job
    from retouch.editing.jobs import SessionError as SessionError
    from retouch.editing.kinds import load as load
    from retouch.editing.lease import HeldError as HeldError
    from retouch.editing.manifest import ArchiveError as ArchiveError
    from retouch.editing.saved import open as open
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
    from retouch.runtime.blocks import StoreError as StoreError
    from retouch.runtime.state.in_place import Recording as Recording
    from retouch.runtime.state.in_place import UndoError as UndoError
    from retouch.runtime.weights import WeightsChangedError as WeightsChangedError

__version__ = version("retouch")

# Names are imported when they are first used: the command line answers without loading PyTorch.
_NAMES = {
    "bench.report": "FileError",
    "editing.canvas.canvas": "Canvas",
    "editing.choice": "VariantsError",
    "editing.diffusion": "Area Editor PipelineError SchedulerError",
    "editing.gan": "LabelEditor Upscaler",
    "editing.home": "LostError",
    "editing.images": "ImageError",
    "editing.jobs": "Frame Job SessionError",
    "editing.kinds": "load",
    "editing.lease": "HeldError",
    "editing.manifest": "ArchiveError",
    "editing.saved": "open",
    "editing.session": "Session",
    "errors": "FallbackWarning OptionError ReplayWarning RetouchError",
    "frontend.capture": "CaptureError",
    "frontend.signature": "InputError",
    "incremental": "Incremental UnsupportedError compile",
    "ir.layout": "tokens",
    "kernels.devices": "DeviceError",
    "kernels.protocol": "BackendError BackendImportError BackendNameError",
    "models.checkpoints": "WeightFileError",
    "models.extras": "ExtraError",
    "passes.by_area": "AreaError",
    "plan.explain": "Explanation",
    "plan.policy": "Policy PolicyError",
    "plan.region": "Region RegionError",
    "runtime.blocks": "StoreError",
    "runtime.state.in_place": "Recording UndoError",
    "runtime.weights": "WeightsChangedError",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = [*_HOMES]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'retouch' has no attribute {name!r}")
        found = getattr(import_module(f"retouch.{_HOMES[name]}"), name)
        globals()[name] = found
        return found

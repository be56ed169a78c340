"""Diffusion models: pipelines, samplers and sessions over whole trajectories."""

from retouch.editing.area import Area
from retouch.editing.diffusion.editor import Editor
from retouch.editing.diffusion.model import PipelineError
from retouch.editing.diffusion.schedulers import SCHEDULERS, SchedulerError
from retouch.editing.diffusion.session import DiffusionSession

__all__ = ["SCHEDULERS", "Area", "DiffusionSession", "Editor", "PipelineError", "SchedulerError"]

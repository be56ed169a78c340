"""Diffusion models: pipelines, samplers and sessions over whole trajectories."""

from retouch.diffusion.editor import Editor
from retouch.diffusion.model import PipelineError
from retouch.diffusion.sampler import SCHEDULERS, SchedulerError
from retouch.diffusion.session import DiffusionSession

__all__ = ["SCHEDULERS", "DiffusionSession", "Editor", "PipelineError", "SchedulerError"]

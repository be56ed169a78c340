"""Generators of conditional GANs: networks that make a picture in one run, and sessions on what they read."""

from retouch.editing.gan.labels import LabelEditor, LabelSession
from retouch.editing.gan.session import GeneratorSession
from retouch.editing.gan.upscaler import Upscaler, UpscaleSession

__all__ = ["GeneratorSession", "LabelEditor", "LabelSession", "UpscaleSession", "Upscaler"]

"""Generators of conditional GANs: networks that make a picture in one run, and sessions on what they read."""

from retouch.gan.labels import LabelEditor, LabelSession
from retouch.gan.session import GeneratorSession
from retouch.gan.upscaler import Upscaler, UpscaleSession

__all__ = ["GeneratorSession", "LabelEditor", "LabelSession", "UpscaleSession", "Upscaler"]

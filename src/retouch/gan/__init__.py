"""Generators of conditional GANs: networks that make a picture in one run, and sessions on what they read."""

from retouch.gan.session import GeneratorSession
from retouch.gan.upscaler import Upscaler, UpscaleSession

__all__ = ["GeneratorSession", "UpscaleSession", "Upscaler"]

"""Networks to measure and test the engine on, built from published configurations.

Weights are random, from a fixed seed: timings and arithmetic are those of the
real networks, pictures and error figures are not.
"""

from retouch.models.registry import Inputs, Network, get, names, tensor_of

__all__ = ["Inputs", "Network", "get", "names", "tensor_of"]

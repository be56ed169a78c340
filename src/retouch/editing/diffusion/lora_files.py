"""LoRAs from files, into a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retouch.editing.diffusion.adapters import Adapters
from retouch.editing.diffusion.model import PipelineError, loading
from retouch.models.extras import require

_OTHER = "it was made for another model"


def load_loras(pipe: Any, places: Mapping[str, str]) -> None:
    """Load LoRAs from safetensors into a pipeline and switch all of them on, at scale 1.

    PipelineError for one that cannot be read, or that was made for another model.
    """
    if places:
        require("peft", "diffusers")
    for name, place in places.items():
        with loading("LoRA", place):
            try:
                pipe.load_lora_weights(place, adapter_name=name, use_safetensors=True)
            except RuntimeError as error:
                if "size mismatch" not in str(error):
                    raise
                raise PipelineError(f"the LoRA {place} does not fit the layers of the pipeline: {_OTHER}") from error
        if name not in Adapters(pipe).scales:
            raise PipelineError(f"the LoRA {place} adapts no layer of the pipeline: {_OTHER}")
    if places:
        pipe.set_adapters(list(places), [1.0] * len(places))

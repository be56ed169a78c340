"""Schedulers by name: diffusers' own, with the settings of a pipeline, for the model that it holds."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch

from retouch.errors import RetouchError
from retouch.models.extras import diffusers

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "deis": "DEISMultistepScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "dpm++2m-sde": "DPMSolverMultistepScheduler",
    "dpm++2s": "DPMSolverSinglestepScheduler",
    "dpm++sde": "DPMSolverSinglestepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "flow-euler": "FlowMatchEulerDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lcm": "LCMScheduler",
    "pndm": "PNDMScheduler",
    "scm": "SCMScheduler",
    "tcd": "TCDScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""Supported schedulers by the names that users give them."""

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "dpm++2m-sde": {"algorithm_type": "sde-dpmsolver++"},
    "dpm++sde": {"algorithm_type": "sde-dpmsolver++"},
    "pndm": {"skip_prk_steps": True},
}
"""What a name says beside its class."""

TRAINED = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
    "rescale_betas_zero_snr",
)  # fmt: skip
"""Settings that are the model's: diffusers would replace those that a pipeline left at their defaults by others."""

FLOW, TRIGFLOW = "flow_prediction", "trigflow"

REFUSALS = ValueError, NotImplementedError, AssertionError
"""What diffusers raises for settings that a scheduler does not take."""


class SchedulerError(RetouchError, ValueError):
    """A scheduler that is unknown, not supported or not for this model, or steps that it cannot take."""


def chosen(name: str | None, current: Any) -> Any:
    """The scheduler of that name with the settings of `current`; None: `current` itself.

    Raises SchedulerError when it is none of `SCHEDULERS`, or not for a model that was trained as `current` says.
    """
    if name is None:
        if type(current).__name__ not in SCHEDULERS.values():
            raise SchedulerError(f"the pipeline's {type(current).__name__} is not supported; {_choices(current)}")
        if not current.config.get("skip_prk_steps", True):
            raise SchedulerError("PNDM with Runge-Kutta steps cannot start in the middle; set skip_prk_steps")
        return current
    if name not in SCHEDULERS:
        raise SchedulerError(f"unknown scheduler {name!r}; there are {', '.join(SCHEDULERS)}")
    try:
        return _made(name, current)
    except REFUSALS as error:
        reason = str(error) or "it takes other settings"
        raise SchedulerError(f"{name} does not fit this model: {reason}; {_choices(current)}") from error


def name_of(scheduler: Any) -> str:
    """The name in `SCHEDULERS` of a scheduler: the one that says most of it."""

    def agrees(name: str) -> bool:
        return all(scheduler.config[key] == value for key, value in OPTIONS.get(name, {}).items())

    names = [name for name, kind in SCHEDULERS.items() if kind == type(scheduler).__name__ and agrees(name)]
    return max(names, key=lambda name: len(OPTIONS.get(name, {})))


def prediction(scheduler: Any) -> str:
    """What the network predicts: "epsilon", "sample", "v_prediction", "flow_prediction" or "trigflow"."""
    return str(scheduler.config.get("prediction_type", FLOW))


def of_unit(scheduler: Any) -> Any:
    """A scheduler, which is changed, for latents as models have them; those of consistency models scale them."""
    if prediction(scheduler) == TRIGFLOW:
        scheduler.register_to_config(sigma_data=1.0)
    return scheduler


def set_steps(scheduler: Any, steps: int, options: Mapping[str, Any]) -> None:
    """Its `set_timesteps`, told the options that it knows: of the shift for an image's size where it makes one."""
    known = set(inspect.signature(scheduler.set_timesteps).parameters)
    if not scheduler.config.get("use_dynamic_shifting"):
        known -= {"mu"}
    given = {name: value for name, value in options.items() if name in known}
    if steps != 2 and "intermediate_timesteps" in known:  # where two steps meet
        given["intermediate_timesteps"] = None
    scheduler.set_timesteps(steps, **given)


def _made(name: str, current: Any) -> Any:
    """The scheduler of that name. One of `REFUSALS` when it is not for the model of `current`."""
    trained = _trained(current)
    kind = getattr(diffusers(), SCHEDULERS[name])
    known = inspect.signature(kind.__init__).parameters
    options = {key: value for key, value in trained.items() if key in known}
    made = kind.from_config(current.config, **options, **OPTIONS.get(name, {}))
    if prediction(made) != trained["prediction_type"]:
        raise ValueError(f"it predicts {trained['prediction_type']}, the scheduler takes {prediction(made)}")
    if trained.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in known:
        raise ValueError("it was trained down to zero signal (rescale_betas_zero_snr), which the scheduler lacks")
    _step(copy.deepcopy(made))
    return made


def _trained(current: Any) -> dict[str, Any]:
    """How the model of a pipeline was trained, by the settings of its scheduler. ValueError where they do not say."""
    config = current.config
    found = {key: config[key] for key in TRAINED if key in config} | {"prediction_type": prediction(current)}
    if found["prediction_type"] == FLOW:  # its shift has two names
        shift = config.get("shift", config.get("flow_shift", 1.0))
        return {**found, "use_flow_sigmas": True, "shift": shift, "flow_shift": shift}
    if "beta_schedule" not in config and found["prediction_type"] != TRIGFLOW:
        raise ValueError(f"the levels of noise of {type(current).__name__} are its own")
    return found


def _step(scheduler: Any) -> None:
    """One step, which refuses predictions that a scheduler does not know."""
    set_steps(scheduler, 2, {"mu": 1.0})
    x, time = torch.zeros(1, 1, 1, 1), scheduler.timesteps[0]
    if hasattr(scheduler, "scale_model_input"):
        scheduler.scale_model_input(x, time)
    scheduler.step(x, time, x)


def _choices(current: Any) -> str:
    """Which schedulers fit the model of `current`."""

    def fits(name: str) -> bool:
        try:
            _made(name, current)
        except REFUSALS:
            return False
        return True

    found = [name for name in SCHEDULERS if fits(name)]
    return f"choose one of {', '.join(found)}" if found else "no other one fits"

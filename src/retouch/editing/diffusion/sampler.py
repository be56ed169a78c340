"""Time steps, noising and the steps of a trajectory, by diffusers' schedulers.

There is a position for each call of the network: schedulers of second order make two in a step. All of it acts on
every pixel alone, which is what lets a region follow its own trajectory.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from retouch.editing.diffusion.schedulers import FLOW, TRIGFLOW, SchedulerError, of_unit, prediction, set_steps

ANGULAR = "v_prediction", TRIGFLOW
"""Predictions of `scale * noise - spread * image`."""


class Sampler:
    """A schedule of time steps. Position i is before step i; position `len(sampler)` is the finished image.

    At position i an image z that is noised by n is `scale[i] * z + spread[i] * n`.
    """

    def __init__(self, scheduler: Any, steps: int, seed: int, options: Mapping[str, Any] | None = None) -> None:
        """options: for the scheduler's `set_timesteps` (`Model.schedule`), where it knows them."""
        if steps < 1:
            raise SchedulerError(f"{steps} steps are too few; take at least 1")
        self.scheduler = of_unit(copy.deepcopy(scheduler))
        self.steps, self.seed = steps, seed
        try:
            set_steps(self.scheduler, steps, options or {})
            self._tabulate()
        except (ValueError, IndexError, ZeroDivisionError) as error:
            raise SchedulerError(f"{type(scheduler).__name__} cannot take {steps} steps: {error}") from error

    def _tabulate(self) -> None:
        times: Tensor = self.scheduler.timesteps
        self.times = times[:-1] if prediction(self.scheduler) == TRIGFLOW else times  # the last is the end
        one, zero = torch.ones(1), torch.zeros(1)
        self.scale = [*(self._mixed(one, zero, i) for i in range(len(self))), 1.0]
        self.spread = [*(self._mixed(zero, one, i) for i in range(len(self))), 0.0]
        self.input_scale = [self._input_scale(i) for i in range(len(self))]

    def __len__(self) -> int:
        return len(self.times)

    def seeded(self, seed: int) -> Sampler:
        """The same schedule with the noise of another seed."""
        twin = copy.copy(self)
        twin.seed = seed
        return twin

    def _before(self, i: int) -> Any:
        """The scheduler before step i, which times alone do not tell: two calls of one step share theirs."""
        return _begun(copy.copy(self.scheduler), i)

    def _mixed(self, image: Tensor, noise: Tensor, i: int) -> float:
        scheduler, time = self._before(i), self.times[i : i + 1]
        if prediction(scheduler) == TRIGFLOW:
            return float(time.cos() * image + time.sin() * noise)
        if hasattr(scheduler, "scale_noise"):  # flow matching
            return float(scheduler.scale_noise(image, time, noise))
        return float(scheduler.add_noise(image, noise, time))

    def _input_scale(self, i: int) -> float:
        return float(_scaled(self._before(i), torch.ones(1), self.times[i]))

    def start(self, strength: float) -> int:
        """The position at which an edit that changes an image by `strength` (0 to 1) starts.

        As in diffusers' StableDiffusionImg2ImgPipeline: the last `int(steps * strength)` steps are taken, each from
        its first call on. Raises SchedulerError for a strength that leaves none.
        """
        if not 0 < strength <= 1:
            raise SchedulerError(f"a strength of {strength:g} is not above 0 and at most 1")
        count = int(self.steps * strength)
        if count < 1:
            raise SchedulerError(
                f"a strength of {strength:g} leaves none of {self.steps} steps; take at least {1 / self.steps:.2g}"
            )
        return self._begin((self.steps - count) * int(self.scheduler.order))

    def _begin(self, i: int) -> int:
        """`i`, unless nothing but noise is there and the network tells the noise alone."""
        if self.scale[i] == 0 and prediction(self.scheduler) == "epsilon":
            raise SchedulerError(
                f"at time {int(self.times[i])} no signal is left (rescale_betas_zero_snr), and a network that predicts "
                "the noise (epsilon) tells nothing there; start at a lower strength"
            )
        return i

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """float32 noise that depends on the seed alone."""
        return torch.randn(shape, generator=torch.Generator().manual_seed(self.seed))

    def initial(self, noise: Tensor) -> Tensor:
        """What free sampling starts from."""
        return noise * float(getattr(self.scheduler, "init_noise_sigma", 1.0))

    def noised(self, image: Tensor, noise: Tensor, i: int) -> Tensor:
        """`image` at position i."""
        return self.scale[i] * image + self.spread[i] * noise

    def noise_of(self, noised: Tensor, image: Tensor, i: int) -> Tensor:
        """The noise that `noised` holds when its image is `image`."""
        return (noised - self.scale[i] * image) / self.spread[i]

    def leverage(self, i: int) -> float:
        """By how much the clean image that a prediction at step i stands for differs if the prediction differs by 1."""
        scale, spread, kind = self.scale[i], self.spread[i], prediction(self.scheduler)
        if kind == FLOW:
            return spread
        if kind == "epsilon":
            return spread / max(scale, 1e-3)
        return spread / math.hypot(scale, spread) if kind in ANGULAR else 1.0

    def clean(self, output: Tensor, x: Tensor, i: int) -> Tensor:
        """The clean image that a prediction at step i for `x` stands for."""
        scale, spread, kind = self.scale[i], self.spread[i], prediction(self.scheduler)
        if kind == FLOW:
            return x - spread * output
        if kind == "epsilon":
            return (x - spread * output) / max(scale, 1e-3)
        if kind in ANGULAR:
            length = math.hypot(scale, spread)
            return (scale / length * x - spread * output) / length
        return output

    def model_input(self, x: Tensor, i: int) -> Tensor:
        """What the network reads at step i."""
        return x if self.input_scale[i] == 1.0 else x * self.input_scale[i]

    def trajectory(self, start: int) -> Trajectory:
        """A run from position `start`."""
        return Trajectory(self, self._begin(start))


class Trajectory:
    """One run of a scheduler, which remembers earlier steps where its method needs them."""

    def __init__(self, sampler: Sampler, start: int) -> None:
        self.sampler, self.at = sampler, start
        self.scheduler = _begun(copy.deepcopy(sampler.scheduler), start)
        self.takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters

    def advance(self, output: Tensor, x: Tensor) -> Tensor:
        """The next position from the network's output at this one.

        A stochastic scheduler's noise depends on seed and step alone, so original and edit share it.
        """
        time = self.sampler.times[self.at]
        _scaled(self.scheduler, x[:1, :1, :1, :1], time)  # Euler finds its place there
        options = {}
        if self.takes_generator:
            options["generator"] = torch.Generator().manual_seed(_mix(self.sampler.seed, self.at))
        result: Tensor = self.scheduler.step(output, time, x, return_dict=False, **options)[0]
        self.at += 1
        return result


def _begun(scheduler: Any, i: int) -> Any:
    """A scheduler, told that its next step is i if that is how it counts."""
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(i)
    return scheduler


def _scaled(scheduler: Any, x: Tensor, time: Tensor) -> Tensor:
    """What a network reads of `x`: flow matching leaves it as it is."""
    found: Tensor = scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
    return found


def _mix(seed: int, step: int) -> int:
    """A seed for one step, far from those of other steps and of the first noise."""
    return (seed * 0x9E3779B97F4A7C15 + (step + 1) * 0xD6E8FEB86659FD93) % (1 << 63)

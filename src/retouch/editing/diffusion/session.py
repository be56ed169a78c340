"""Sessions on an image of a diffusion model: every denoising step recorded, edits along the whole trajectory.

An edit noises the edited image as Meng et al., "SDEdit" (arXiv 2108.01073), and denoises it. At every step
the positions of its region follow their own trajectory and all others are those of the session's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from retouch.editing.archive import Progress, silent
from retouch.editing.diffusion.estimate import StepCheck, checked_step
from retouch.editing.diffusion.model import Model, Networks, PipelineError, Words
from retouch.editing.diffusion.sampler import Sampler
from retouch.editing.images import ImageLike, Pixels, as_mask, as_pixels, blend, difference, from_tensor, to_tensor
from retouch.editing.session import Calls, Clock, Edited, Session, Version, run_whole
from retouch.incremental import Incremental
from retouch.ir.geometry import Grid
from retouch.plan.region import Mask, Region, spread
from retouch.runtime.store import Store

MASK_STEPS = 4
"""Steps at which an automatic difference mask compares the predictions for two prompts."""


Growth = Callable[[Region], Region]

WIDER = 16
"""Pixels by which a region grows when its error may be too large."""

GROWTHS: tuple[Growth, ...] = (
    lambda region: region,
    lambda region: region.dilated(WIDER),
    lambda region: Region(np.ones_like(region.mask)),
)
"""What is computed for a region, until the estimate of the error is low enough: it, more, everything."""


class Evaluations(Protocol):
    """How an edit evaluates a network: from snapshots, or densely."""

    def update(self, name: str, net: Incremental, region: Region, *args: Any, **kwargs: Any) -> Any:
        """The result of the call `name`, computed anew inside `region`."""


class Dense:
    """Every network run whole, for comparison."""

    def update(self, name: str, net: Incremental, region: Region, *args: Any, **kwargs: Any) -> Any:
        """The module's own result."""
        return run_whole(net, *args, **kwargs)


@dataclass(frozen=True)
class Change:
    """What an edit asks for: pixels, the mask of its region, words, the first step."""

    pixels: Pixels
    mask: Mask
    words: Words
    start: int
    repaint: bool


@dataclass
class Outcome:
    """What came of a change: latents `[n + 1, C, h, w]` at every position, decoded pixels, encoder's image, and
    one of the steps for the estimate of the error (None: nothing to check).
    """

    latents: Tensor
    pixels: Pixels
    seen: Pixels
    check: StepCheck | None = None


class DiffusionSession(Session):
    """A session on a photograph or a generated image."""

    kind = "diffusion"

    def __init__(self, model: Model, sampler: Sampler, words: Words, store: Store, settings: dict[str, Any]) -> None:
        super().__init__(store, settings)
        self.model, self.sampler = model, sampler
        self._known = {(words.prompt, words.negative): words}
        self.size: tuple[int, int] = (settings["height"], settings["width"])
        self.nets: Networks = model.networks(self.size, words)
        self.policy = model.policy
        self.first: int = settings["first"]

    def networks(self) -> dict[str, Incremental]:
        """Denoiser, and encoder and decoder of a latent model."""
        return self.nets.named()

    def network(self, name: str) -> Incremental:
        """The network of a snapshot: "step-07" is the denoiser's."""
        found = self.networks()
        return found["denoiser"] if name.startswith("step-") else found[name]

    def sound(self, version: Version) -> bool:
        """True when images, latents and every recorded call are there."""
        shapes = {name: tuple(tensor.shape) for name, tensor in version.tensors.items()}
        _, *latent = self.model.latent_shape(self.size)
        steps = range(self.first, len(self.sampler))
        expected = {"image": (*self.size, 3), "seen": (*self.size, 3), "latents": (len(steps) + 1, *latent)}
        dtypes = {name: torch.float32 if name == "latents" else torch.uint8 for name in expected}
        calls = {_step(i) for i in steps} | set(self.networks()) - {"denoiser"}
        return (
            shapes == expected
            and all(version.tensors[name].dtype == dtype for name, dtype in dtypes.items())
            and set(version.snapshots) == calls
        )

    @property
    def words(self) -> Words:
        """The words of the current version."""
        if not self.versions:
            return next(iter(self._known.values()))
        return self._spoken(self.version.facts["prompt"], self.version.facts["negative"])

    def _spoken(self, prompt: str | None, negative: str | None) -> Words:
        if (prompt, negative) not in self._known:
            guidance = float(self.settings["guidance"])
            self._known[prompt, negative] = self.model.encode_words(prompt, negative, guidance, self.size)
        return self._known[prompt, negative]

    # Edits

    def edit(
        self,
        image: ImageLike | None = None,
        *,
        mask: ImageLike | None = None,
        prompt: str | None = None,
        negative: str | None = None,
        strength: float | None = None,
        max_error: float | None = None,
        progress: Progress = silent,
    ) -> Edited:
        """Redraw what was changed.

        image: the current image with strokes, patches or erasures on it, of the session's size. None: the
            current image, for a change of words alone.
        mask: where it was edited; None: where `image` differs from the current one, and for a change of
            words alone where the predictions for old and new words differ (Couairon et al., "DiffEdit",
            arXiv 2210.11427).
        prompt, negative: new words; the session keeps them. Only the region follows them.
        strength: how much is redrawn, 0 to 1; None: that of the session.
        max_error: grey levels; when the estimate of the error is above it, more is computed around the region,
            and in the end everything. Each estimate takes one dense denoising step.

        Pixels outside the region, grown by the policy's dilation, stay bit for bit. Returns at once when
        nothing changed. Raises ImageError, PipelineError or SchedulerError for bad input; then, and when it
        is interrupted, the session is as before.
        """
        clock = Clock()
        change = self._change(image, mask, prompt, negative, strength)
        if not change.mask.any():
            return Edited(self.image, Region.from_mask(change.mask), clock.total())
        return self._run(change, clock, progress, max_error)

    def inpaint(
        self,
        mask: ImageLike,
        *,
        prompt: str | None = None,
        negative: str | None = None,
        strength: float | None = None,
        max_error: float | None = None,
        progress: Progress = silent,
    ) -> Edited:
        """Fill the white part of a mask anew, to fit its surroundings and the words. Otherwise like `edit`.

        At strength 1 nothing of what was there is kept; below it the filling starts from the old content.
        """
        clock = Clock()
        change = self._change(None, mask, prompt, negative, strength)
        return self._run(replace(change, repaint=True), clock, progress, max_error)

    def reference(
        self,
        image: ImageLike | None = None,
        *,
        mask: ImageLike | None = None,
        prompt: str | None = None,
        negative: str | None = None,
        strength: float | None = None,
        inpaint: bool = False,
        progress: Progress = silent,
    ) -> Edited:
        """What the dense networks make of the same edit, all else equal; the session stays as it is.

        Takes the arguments of `edit`, or with `inpaint` those of `inpaint`.
        """
        clock = Clock()
        change = replace(self._change(image, mask, prompt, negative, strength), repaint=inpaint)
        outcome = self._redrawn(change, Dense(), clock, progress)
        return Edited(Image.fromarray(outcome.pixels), Region.from_mask(change.mask), clock.total())

    def _change(
        self,
        image: ImageLike | None,
        mask: ImageLike | None,
        prompt: str | None,
        negative: str | None,
        strength: float | None,
    ) -> Change:
        current = self.pixels
        words, start = self._new_words(prompt, negative), self._start(strength)
        drawn = current if image is None else as_pixels(image)
        changed = difference(current, drawn)
        if mask is not None:
            changed = as_mask(mask, self.size)
        elif not changed.any() and words is not self.words:
            changed = self._difference_mask(words)
        return Change(np.where(changed[..., None], drawn, current), changed, words, start, False)

    def _new_words(self, prompt: str | None, negative: str | None) -> Words:
        """The session's words with those given replaced."""
        old = self.words
        return self._spoken(old.prompt if prompt is None else prompt, old.negative if negative is None else negative)

    def _start(self, strength: float | None) -> int:
        start = self.sampler.start(self.settings["strength"] if strength is None else strength)
        if start < self.first:
            raise PipelineError(
                f"a strength of {strength:g} needs steps that were not recorded; this session was opened with "
                f"a strength of {self.settings['strength']:g}, open it again with a higher one"
            )
        return start

    def _run(self, change: Change, clock: Clock, progress: Progress, max_error: float | None) -> Edited:
        region = Region.from_mask(change.mask)
        for grow in GROWTHS if max_error is not None else GROWTHS[:1]:
            with self._making() as calls:
                outcome = self._redrawn(change, calls, clock, progress, grow)
                if max_error is not None and grow is not GROWTHS[-1]:
                    with clock.of("estimate"):
                        too_far = outcome.check is not None and outcome.check.error > max_error
                    if too_far:
                        continue
                with clock.of("store"):
                    edit = "inpaint" if change.repaint else "edit"
                    facts = self._facts(edit, region.fraction, change.start, change.words, clock)
                    self._put(calls, _tensors(outcome), facts)
                break
        return Edited(self.image, region, clock.total(), outcome.check)

    # What an edit computes

    def _redrawn(
        self, change: Change, run: Evaluations, clock: Clock, progress: Progress, grow: Growth = GROWTHS[0]
    ) -> Outcome:
        """Every network computes what `grow` makes of its region; what may change stays the same."""
        inside = self.latent_mask(Region.from_mask(change.mask))
        region = grow(Region.from_mask(change.mask))
        total = len(self.sampler) - change.start + 1
        progress(0, total, "encoding")
        with clock.of("encode"):
            latent, visible, seen = self._encoded(change, inside, run, grow)
        latents, check = self._denoised(change, region, inside, latent, visible, run, clock, progress)
        progress(total - 1, total, "decoding")
        with clock.of("decode"):
            decoded = self._to_pixels(latents[-1:], lambda name, net, *args: run.update(name, net, region, *args))
        with clock.of("composite"):
            pixels = blend(self.pixels, from_tensor(decoded), change.mask, self.border)
        progress(total, total, "done")
        return Outcome(latents, pixels, seen, check)

    @property
    def border(self) -> int:
        """Pixels around a region in which an edit's result fades into the old image."""
        return 0 if self.policy.exact else self.policy.dilate

    def latent_mask(self, region: Region) -> Tensor:
        """bool `[1, 1, h, w]`: the positions of the noised image that an edit of this region may change."""
        _, _, height, width = self.model.latent_shape(self.size)
        return torch.from_numpy(spread(region, Grid(height, width), self.policy))[None]

    def _encoded(
        self, change: Change, inside: Tensor, run: Evaluations, grow: Growth
    ) -> tuple[Tensor, Tensor | None, Pixels]:
        """Latent of the edited image, latent of what is not repainted (inpainting models), the encoder's image."""
        old = self.version.tensors["latents"][-1:]
        seen: Pixels = self.version.tensors["seen"].numpy()
        latent = old
        if not np.array_equal(change.pixels, self.pixels):
            encoded, seen = self._encode(change.pixels, seen, run, grow)
            latent = torch.where(inside, encoded, old)
        if not self.model.inpaints:
            return latent, None, seen
        hidden = np.where(change.mask[..., None], np.uint8(127), change.pixels)
        encoded, seen = self._encode(hidden, seen, run, grow)
        return latent, torch.where(inside, encoded, old), seen

    def _encode(self, pixels: Pixels, seen: Pixels, run: Evaluations, grow: Growth) -> tuple[Tensor, Pixels]:
        """The latent of an image, from an encoder that has `seen` another one, and what it has seen now."""
        stale = grow(Region.from_mask((pixels != seen).any(-1)))
        return self._to_latent(pixels, lambda name, net, *args: run.update(name, net, stale, *args)), pixels

    def _denoised(
        self,
        change: Change,
        region: Region,
        inside: Tensor,
        latent: Tensor,
        visible: Tensor | None,
        run: Evaluations,
        clock: Clock,
        progress: Progress,
    ) -> tuple[Tensor, StepCheck | None]:
        """The latents of all positions, those of the trajectory inside the region replaced; a step to check."""
        old = self.version.tensors["latents"]
        latents = old.clone()
        start, count = change.start, len(self.sampler) - change.start
        x = torch.where(inside, self._noised(change, latent), old[start - self.first][None])
        mask = inside.to(x.dtype) if visible is not None else None
        trajectory, check = self.sampler.trajectory(start), None
        for i in range(start, len(self.sampler)):
            progress(i - start, count + 1, f"step {i - start + 1} of {count}")
            latents[i - self.first] = x[0]
            read = self.model.extended(self.sampler.model_input(x, i), mask, visible)
            inputs = self.model.inputs(read, self.sampler.times[i : i + 1], change.words)
            with clock.of("denoise"):
                result = run.update(_step(i), self.nets.denoiser, region, **inputs)
            with clock.of("schedule"):
                output = self.model.output(result, change.words)
                x = torch.where(inside, trajectory.advance(output, x), old[i + 1 - self.first][None])
            if i == start + checked_step(count):
                dense = partial(self._predicted, inputs, change.words)
                levels = self._levels * self.sampler.leverage(i)
                decoded = self.nets.decoder is not None and not (self.policy.exact or region.mask.all())
                check = StepCheck(output, dense, self._core(change.mask), levels, decoded)
        latents[-1] = x[0]
        return latents, check

    def _predicted(self, inputs: dict[str, Any], words: Words) -> Tensor:
        """What the dense denoiser makes of inputs."""
        return self.model.output(run_whole(self.nets.denoiser, **inputs), words)

    @property
    def _levels(self) -> float:
        """Grey levels of a difference of one in the clean latent: of the original, by the deviations of both."""
        tensors = self.versions[0].tensors
        return float(tensors["image"].float().std() / tensors["latents"][-1].std().clamp(min=1e-3))

    def _core(self, mask: Mask) -> Tensor:
        """bool `[1, 1, h, w]`: the positions of the noised image that a mask of pixels covers."""
        _, _, height, width = self.model.latent_shape(self.size)
        return torch.tensor(Region.from_mask(mask).on(Grid(height, width)).mask)[None]

    def _noised(self, change: Change, latent: Tensor) -> Tensor:
        """The start of an edit's trajectory, with the noise that the original holds."""
        original = self.versions[0].tensors["latents"]
        i = change.start
        noise = self.sampler.noise_of(original[i - self.first][None], original[-1:], i)
        if change.repaint and i == 0:
            return self.sampler.initial(noise)
        return self.sampler.noised(latent, noise, i)

    def _to_latent(self, pixels: Pixels, call: Callable[..., Any]) -> Tensor:
        """The latent of an image; `call` runs the encoder, given its name, the network and what it reads."""
        read = self.model.encoder_input(to_tensor(pixels))
        return self.model.latent(call("encoder", self.nets.encoder, read) if self.nets.encoder else read)

    def _to_pixels(self, latent: Tensor, call: Callable[..., Any]) -> Tensor:
        """Pixels of a latent; `call` runs the decoder."""
        read = self.model.decoder_input(latent)
        return self.model.pixels(call("decoder", self.nets.decoder, read) if self.nets.decoder else read)

    def _difference_mask(self, words: Words) -> Mask:
        """Where the predictions for the session's words and for others differ by more than half the most."""
        latents = self.version.tensors["latents"]
        last = len(self.sampler) - 1
        differences = []
        for i in np.unique(np.linspace(self.first, last, MASK_STEPS + 2).astype(int)[1:-1]):
            x = self.model.extended(self.sampler.model_input(latents[i - self.first][None], i), None, None)
            time = self.sampler.times[i : i + 1]
            old, new = (self._predicted(self.model.inputs(x, time, w), w) for w in (self.words, words))
            differences.append((new - old).abs().mean(1)[0])
        mean = torch.stack(differences).mean(0)
        scaled = mean / mean.quantile(0.99).clamp(min=1e-12)
        cells: Mask = (scaled > 0.5).numpy()
        return Region.from_mask(cells).on(Grid(*self.size)).mask[0]

    # Recording

    def record_photograph(self, pixels: Pixels, progress: Progress = silent) -> None:
        """Make a photograph the session's first version: the network on it at every level of noise."""
        clock = Clock()
        total = len(self.sampler) - self.first + 2
        with self._making() as calls:
            progress(0, total, "encoding")
            with clock.of("encode"):
                latent = self._to_latent(pixels, calls.record)
            noise = self.sampler.noise(tuple(latent.shape))
            positions = range(self.first, len(self.sampler) + 1)
            latents = torch.cat([self.sampler.noised(latent, noise, i) for i in positions])
            for i in positions[:-1]:
                progress(i - self.first + 1, total, f"recording step {i - self.first + 1} of {len(positions) - 1}")
                with clock.of("denoise"):
                    self._record_step(i, latents[i - self.first][None], latent, calls)
            progress(total - 1, total, "recording the decoder")
            with clock.of("decode"):
                self._to_pixels(latent, calls.record)
            self._put_first(calls, Outcome(latents, pixels, pixels), "photograph", clock)
        progress(total, total, "recorded")

    def record_generated(self, progress: Progress = silent) -> None:
        """Generate an image and make it the session's first version: the trajectory that made it."""
        clock = Clock()
        total = len(self.sampler) + 2
        with self._making() as calls:
            x = self.sampler.initial(self.sampler.noise(self.model.latent_shape(self.size)))
            latents, trajectory = [x], self.sampler.trajectory(0)
            for i in range(len(self.sampler)):
                progress(i, total, f"step {i + 1} of {len(self.sampler)}")
                with clock.of("denoise"):
                    output = self._record_step(i, x, None, calls)
                x = trajectory.advance(output, x)
                latents.append(x)
            progress(total - 2, total, "decoding")
            with clock.of("decode"):
                pixels = from_tensor(self._to_pixels(x, calls.record))
            progress(total - 1, total, "recording the encoder")
            with clock.of("encode"):
                self._to_latent(pixels, calls.record)
            self._put_first(calls, Outcome(torch.cat(latents), pixels, pixels), "generated", clock)
        progress(total, total, "recorded")

    def _record_step(self, i: int, x: Tensor, visible: Tensor | None, calls: Calls) -> Tensor:
        read = self.model.extended(self.sampler.model_input(x, i), None, visible)
        inputs = self.model.inputs(read, self.sampler.times[i : i + 1], self.words)
        return self.model.output(calls.record(_step(i), self.nets.denoiser, **inputs), self.words)

    def _put_first(self, calls: Calls, outcome: Outcome, edit: str, clock: Clock) -> None:
        self._put(calls, _tensors(outcome), self._facts(edit, 1.0, self.first, self.words, clock))

    def _facts(self, edit: str, region: float, start: int, words: Words, clock: Clock) -> dict[str, Any]:
        return {
            "edit": edit,
            "region": region,
            "steps": len(self.sampler) - start,
            "prompt": words.prompt,
            "negative": words.negative,
            "seconds": clock.total(),
        }


def _step(i: int) -> str:
    """The name of the snapshots of a step."""
    return f"step-{i:03d}"


def _tensors(outcome: Outcome) -> dict[str, Tensor]:
    return {
        "image": torch.from_numpy(outcome.pixels),
        "seen": torch.from_numpy(np.ascontiguousarray(outcome.seen)),
        "latents": outcome.latents.contiguous(),
    }

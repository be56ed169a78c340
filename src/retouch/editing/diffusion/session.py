"""Sessions on an image of a diffusion model: every denoising step recorded, edits along the whole trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from retouch.editing.archive import Progress, silent
from retouch.editing.calls import Calls, Clock
from retouch.editing.diffusion.change import NEVER, Change, Joins, joins
from retouch.editing.diffusion.denoiser import snapshot_name
from retouch.editing.diffusion.drawing import Drawing
from retouch.editing.diffusion.estimate import EXACT, FITTED, Calibration, root_mean_square, sample_edit
from retouch.editing.diffusion.model import Conditioning, Model, PipelineError
from retouch.editing.diffusion.preview import LinearMap, Previews
from retouch.editing.diffusion.redraw import GROWTHS, AfterStep, Evaluations, Growth, Process, Redraw, Redrawn, Whole
from retouch.editing.diffusion.refine import ENOUGH, Refinement, stages_of
from retouch.editing.diffusion.sampler import Sampler
from retouch.editing.diffusion.schedulers import SchedulerError
from retouch.editing.diffusion.variants import Variant, Variants, VariantsError, check_room, seeds_of, varied
from retouch.editing.images import (
    Box,
    ImageLike,
    Pixels,
    Strengths,
    as_pixels,
    as_strengths,
    box_of,
    check_same,
    difference,
    from_tensor,
    threshold_of,
)
from retouch.editing.jobs import Job
from retouch.editing.manifest import Fields, maybe, number, optional, positive, record, text, whole
from retouch.editing.recent import Recent
from retouch.editing.session import Edited, Session, Version, locked
from retouch.errors import OptionError
from retouch.incremental import Incremental
from retouch.ir.geometry import Grid
from retouch.plan.region import Mask, Region
from retouch.runtime.store import Store

MASK_STEPS = 4
"""Steps at which an automatic difference mask compares the predictions for two prompts."""

NOWHERE: Box = (slice(0, 0), slice(0, 0))

TEXTS = 16
"""The embeddings of so many pairs of texts are kept."""


class DiffusionSession(Session):
    """A session on a photograph or a generated image."""

    kind = "diffusion"
    saved_settings: ClassVar[Fields] = {
        "steps": positive,
        "seed": whole,
        "strength": number,
        "guidance": number,
        "first": whole,
        "scheduler": record({"name": text, "config": lambda found: isinstance(found, dict)}),
        "calibration": maybe(Calibration.saved),
    }
    saved_facts: ClassVar[Fields] = {
        "steps": positive, "prompt": optional(text), "negative": optional(text),
        "class_label": maybe(optional(whole)), "refined": maybe(text), "seed": maybe(whole),
    }  # fmt: skip

    def __init__(
        self, model: Model, sampler: Sampler, conditioning: Conditioning, store: Store, settings: dict[str, Any]
    ) -> None:
        super().__init__(store, settings)
        self.model, self.sampler, self.policy = model, sampler, model.policy
        self.size: tuple[int, int] = (settings["height"], settings["width"])
        self.first: int = settings["first"]
        self.nets = model.networks(self.size, conditioning)
        self.process = Process(model, self.nets, sampler, self.size, self.first)
        self._opened_with = conditioning
        self._known: Recent[tuple[str | None, str | None, int | None], Conditioning] = Recent(TEXTS)

    def networks(self) -> dict[str, Incremental]:
        """Denoiser, and encoder and decoder of a latent model."""
        return self.nets.named()

    def calls(self) -> dict[str, str]:
        """One for each step, one for the encoder and the decoder."""
        steps = {snapshot_name(i): "denoiser" for i in range(self.first, len(self.sampler))}
        return steps | {name: name for name in self.networks() if name != "denoiser"}

    def is_complete(self, version: Version) -> bool:
        """True when images and latents are there."""
        shapes = {name: tuple(tensor.shape) for name, tensor in version.tensors.items()}
        _, *latent = self.model.latent_shape(self.size)
        count = len(self.sampler) - self.first + 1
        expected = {"image": (*self.size, 3), "seen": (*self.size, 3), "latents": (count, *latent)}
        dtypes = {name: torch.float32 if name == "latents" else torch.uint8 for name in expected}
        return shapes == expected and all(version.tensors[name].dtype == dtype for name, dtype in dtypes.items())

    @property
    def conditioning(self) -> Conditioning:
        """What the current version is conditioned on."""
        if not self.versions:
            return self._opened_with
        return self._recorded_with(self.version)

    def _recorded_with(self, version: Version) -> Conditioning:
        facts = version.facts
        return self._condition(facts["prompt"], facts["negative"], facts.get("class_label"))

    def _condition(self, prompt: str | None, negative: str | None, class_label: int | None = None) -> Conditioning:
        asked, guidance = (prompt, negative, class_label), float(self.settings["guidance"])
        if asked == self._opened_with.asked:
            return self._opened_with
        made = partial(self.model.condition, prompt, negative, guidance, self.size, class_label)
        return self._known.get(asked, made)

    @property
    def threshold(self) -> int:
        """Grey levels by which an edited image may differ from the current one without being edited: 0 if exact."""
        return threshold_of(self.policy)

    @property
    def border(self) -> int:
        """Pixels around a region in which an edit's result fades into the old image."""
        return self.process.border

    def latent_mask(self, region: Region) -> Tensor:
        """bool `[1, 1, h, w]`: the positions of the noised image that an edit of this region may change."""
        return self.process.latent_mask(region)

    # Edits

    @locked
    def edit(
        self,
        image: ImageLike | None = None,
        *,
        mask: ImageLike | None = None,
        prompt: str | None = None,
        negative: str | None = None,
        class_label: int | None = None,
        strength: float | None = None,
        max_error: float | None = None,
        threshold: int | None = None,
        progress: Progress = silent,
    ) -> Edited:
        """Redraw what was changed.

        image: the current image with strokes, patches or erasures on it, of the session's size. None: the
            current image, for a change of what it is conditioned on alone.
        mask: where it was edited; None: where `image` differs from the current one, and for a change of
            these alone where the predictions for old and new ones differ (Couairon et al., "DiffEdit",
            arXiv 2210.11427). A grey mask is the strength at each pixel, as a part of `strength` (Levin and
            Fried, "Differential Diffusion", arXiv 2306.00950): a position joins at the step that its strength
            says and is as in the current image until then; where none of the steps is left, it stays. As
            floats in 0..1, uint8 (255 is white), uint16, bool, or a file.
        prompt, negative, class_label: new texts, another class; the session keeps them. Only the region follows them.
        strength: how much is redrawn, 0 to 1; None: that of the session.
        max_error: grey levels; when the estimate of the error is above it, more is computed around the region,
            and in the end everything. Each estimate takes one dense denoising step; the first one of a session
            calibrates it on an edit of its own, computed both ways, which takes a dense edit (see `Edited.error`).
        threshold: grey levels; where `image` differs from the current one by no more, it counts as not edited.
            None: 2, as files and colour conversions leave such differences, and 0 under `exact`.

        Pixels outside the region, grown by the policy's dilation, stay bit for bit. Returns at once when
        nothing changed. Raises ImageError, PipelineError or SchedulerError for bad input; then, and when it
        is interrupted, the session is as before.
        """
        clock = Clock()
        change = self._change(image, mask, (prompt, negative, class_label), strength, threshold)
        if not change.mask.any():
            return Edited(self.image, Region.from_mask(change.mask), clock.total())
        return self._run(change, clock, progress, max_error)[0]

    @locked
    def inpaint(
        self,
        mask: ImageLike,
        *,
        prompt: str | None = None,
        negative: str | None = None,
        class_label: int | None = None,
        strength: float | None = None,
        max_error: float | None = None,
        progress: Progress = silent,
    ) -> Edited:
        """Fill the white part of a mask anew, to fit its surroundings and the prompt. Otherwise like `edit`.

        At strength 1 nothing of what was there is kept; below it, and where the mask is grey, the filling starts
        from the old content.
        """
        clock = Clock()
        change = self._change(None, mask, (prompt, negative, class_label), strength)
        return self._run(replace(change, repaint=True), clock, progress, max_error)[0]

    def submit(
        self,
        image: ImageLike | None = None,
        *,
        mask: ImageLike | None = None,
        prompt: str | None = None,
        negative: str | None = None,
        class_label: int | None = None,
        strength: float | None = None,
        max_error: float | None = None,
        threshold: int | None = None,
        inpaint: bool = False,
        base: int | None = None,
        refine: float | str | None = ENOUGH,
        join: bool = True,
        progress: Progress = silent,
    ) -> Job[Edited]:
        """Begin an edit and return: `edit` as a job, or with `inpaint` what `inpaint` does.

        The rest of the arguments are those of `edit`; `progress` is called in another thread.

        base: the number of the version that `image` was drawn on; None: the current one. Only what differs from it
            was drawn, and goes on whatever picture is the current one when the edit begins.
        refine: what follows when nothing waits for the device: "off" (or None) nothing, "step" the edit again with
            more around it, "dense" that, and then everything as the dense model computes it; or grey levels, the same
            until the estimate of the error is no higher. It takes the place of the edit, in the same version.
        join: the session's jobs that are not done are cancelled and their strokes made part of this edit: newer ones
            over older ones, both regions, words and options of the newer where they are given. An edit that is to find
            its region by words, and one that fills where the other redraws, comes after them instead. With False every
            edit does.

        Raises what `edit` raises for bad input, OptionError for `refine` and `base`, SessionError when the session is
        closed, has no picture yet, or too much waits; nothing was begun then.
        """
        if inpaint and mask is None:
            raise OptionError("to inpaint, say with a mask where")
        stages_of(refine)
        if image is not None and base is not None:
            image = self._moved_on(as_pixels(image), base)
        grey = None if mask is None else as_strengths(mask, self.size)
        asked = prompt, negative, class_label
        change = self._asked(image, grey, asked, strength, threshold)
        if grey is None and change.mask.any():
            grey = change.mask.astype(float)
        drawing = Drawing(
            self._draw,
            change.pixels,
            (change.pixels != self.pixels).any(-1),
            grey,
            asked,
            strength,
            inpaint,
            max_error,
            refine,
            progress,
        )
        return self.start(drawing, join)

    def _moved_on(self, drawn: Pixels, base: int) -> Pixels:
        """What was drawn on the version of that number, on the current picture."""
        if not self.versions and base == 0:
            return drawn
        found = [version.pixels for version in self.versions if version.number == base]
        if not found:
            raise OptionError(f"there is no version {base} to draw on")
        check_same(found[0], drawn, "pictures")
        moved: Pixels = np.where(drawn != found[0], drawn, self.pixels)
        return moved

    @locked
    def _draw(self, drawing: Drawing, job: Job[Edited]) -> tuple[Edited, Refinement | None]:
        """What a job computes."""
        clock, before = Clock(), self.version
        change = self._change(drawing.on(self.pixels), drawing.mask, drawing.asked, drawing.strength)
        change = replace(change, repaint=drawing.inpaint)
        if not change.mask.any():
            job.show("result", before.number, NOWHERE, self.pixels[NOWHERE], (0, 0))
            return Edited(self.image, Region.from_mask(change.mask), clock.total()), None
        edited, calls = self._run(change, clock, drawing.progress, drawing.max_error, job)
        stages, bound = stages_of(drawing.refining)
        if self.policy.exact or calls.macs >= calls.dense_macs:  # it is the dense model's already
            stages = []

        def redrawn(run: Evaluations, grow: Growth) -> Redrawn:
            return self._redraw(before, change, run, Clock(), grow=grow).result()

        anew = partial(Calls, self.store, before.snapshots, None)
        return edited, Refinement(
            self.version, edited.estimate, stages, bound, anew, redrawn, self.replace, self.is_last
        )

    @locked
    def variants(
        self,
        count: int,
        image: ImageLike | None = None,
        *,
        seeds: Sequence[int] | None = None,
        inpaint: bool = False,
        mask: ImageLike | None = None,
        prompt: str | None = None,
        negative: str | None = None,
        class_label: int | None = None,
        strength: float | None = None,
        threshold: int | None = None,
        progress: Progress = silent,
    ) -> Variants:
        """One edit with `count` seeds, computed together; the session stays as it is until one is chosen.

        Takes the arguments of `edit`, or with `inpaint` those of `inpaint`. The first seed is the session's own, so the
        first variant is what `edit` makes; the others are those after it, or what `seeds` says, which are `count`.
        The noise of a seed is seen in the region alone.

        Raises VariantsError, before anything is computed, for fewer than one, for an edit that changes nothing, and
        when that many do not fit into memory; and what `edit` raises.
        """
        chosen = seeds_of(count, seeds, self.settings["seed"])
        change = replace(
            self._change(image, mask, (prompt, negative, class_label), strength, threshold), repaint=inpaint
        )
        if not change.mask.any():
            raise VariantsError("nothing is edited, so there is nothing to vary; draw, or give a mask or a prompt")
        self._check_room(change, count)
        base, clock = self.version, Clock()
        redraws = [
            self._redraw(base, change, Whole(), clock if k == 0 else Clock(), progress if k == 0 else silent)
            for k in range(count)
        ]
        calls = [Calls(self.store, base.snapshots, None) for _ in chosen]
        found = varied(redraws, chosen, self.settings["seed"], calls, self.networks().values())
        edit = "inpaint" if inpaint else "edit"
        facts = self._facts(edit, float(change.mask.mean()), change.start, change.conditioning, clock)
        region = Region.from_mask(change.mask)
        made = (Variant(*each, region, facts) for each in zip(chosen, found, calls, strict=True))
        return Variants(self, base, tuple(made))

    def _check_room(self, change: Change, count: int) -> None:
        region, nets = Region.from_mask(change.mask), self.networks()
        demands = {name: net.demand(region) for name, net in nets.items()}
        last = snapshot_name(change.start)
        steps = [demands[of] for name, of in self.calls().items() if of != "denoiser" or name >= last]
        added = sum(demand.added for demand in steps) + sum(t.nbytes for t in self.version.tensors.values())
        most = max(demands.values(), key=lambda demand: demand.once + count * demand.each)
        check_room(count, most.once, most.each + added, self.nets.denoiser.backend.device)

    @locked
    def choose(self, found: Variants, number: int) -> Edited:
        """Make a variant a version, and that the current one. Several may be chosen: they are branches side by side.

        Raises VariantsError when there is none of that number, or the session shows another version by now.
        """
        variant, before = found[number], self._history
        found.check(before)
        self._history = before.at(found.base.number)
        try:
            with self._making() as calls:
                calls.take(variant.calls)
                self._put(calls, variant.found.tensors(), {**variant.facts, "seed": variant.seed})
        except BaseException:
            self._history = before
            raise
        found.chosen = self.version.number
        return variant.edited

    @locked
    def reference(
        self,
        image: ImageLike | None = None,
        *,
        mask: ImageLike | None = None,
        prompt: str | None = None,
        negative: str | None = None,
        class_label: int | None = None,
        strength: float | None = None,
        inpaint: bool = False,
        progress: Progress = silent,
    ) -> Edited:
        """What the dense networks make of the same edit, all else equal; the session stays as it is.

        Takes the arguments of `edit`, or with `inpaint` those of `inpaint`. Every difference between `image` and
        the current one counts, the smallest, too.
        """
        clock = Clock()
        change = replace(self._change(image, mask, (prompt, negative, class_label), strength, 0), repaint=inpaint)
        found = self._redraw(self.version, change, Whole(), clock, progress).result()
        return Edited(Image.fromarray(found.pixels), Region.from_mask(change.mask), clock.total())

    def _change(
        self,
        image: ImageLike | None,
        mask: ImageLike | None,
        asked: tuple[str | None, str | None, int | None],
        strength: float | None,
        threshold: int | None = None,
    ) -> Change:
        change = self._asked(image, mask, asked, strength, threshold)
        if change.steps or change.conditioning.asked == self.conditioning.asked:
            return change
        found = self._difference_mask(change.conditioning)
        return replace(change, joins=self._joins(found.astype(float), strength))

    def _asked(
        self,
        image: ImageLike | None,
        mask: ImageLike | None,
        asked: tuple[str | None, str | None, int | None],
        strength: float | None,
        threshold: int | None,
    ) -> Change:
        """The change as far as no network is needed for it; none of it joins where that is for the words to say."""
        current, old = self.pixels, self.conditioning
        prompt, negative, label = asked
        conditioning = self._condition(
            old.prompt if prompt is None else prompt,
            old.negative if negative is None else negative,
            old.class_label if label is None else label,
        )
        drawn = current if image is None else as_pixels(image)
        changed = difference(current, drawn, self.threshold if threshold is None else threshold)
        found = self._joins(changed.astype(float) if mask is None else as_strengths(mask, self.size), strength)
        return Change(np.where((found < NEVER)[..., None], drawn, current), found, conditioning)

    def _joins(self, strengths: Strengths, strength: float | None = None) -> Joins:
        """When each pixel joins. SchedulerError when a mask is so dark that no step is left for any."""
        most = self.settings["strength"] if strength is None else strength
        self._start(most)
        found, brightest = joins(strengths, most, self.sampler.start), strengths.max()
        if brightest and not (found < NEVER).any():
            raise SchedulerError(
                f"the brightest value of the mask, {brightest:.2g} of white, leaves none of {self.sampler.steps} steps "
                f"at a strength of {most:g}; white is 1.0, 255 or True"
            )
        return found

    def _start(self, strength: float) -> int:
        start = self.sampler.start(strength)
        if start < self.first:
            raise PipelineError(
                f"a strength of {strength:g} needs steps that were not recorded; this session was opened with "
                f"a strength of {self.settings['strength']:g}, open it again with a higher one"
            )
        return start

    def _run(
        self, change: Change, clock: Clock, progress: Progress, max_error: float | None, job: Job[Edited] | None = None
    ) -> tuple[Edited, Calls]:
        region, box = Region.from_mask(change.mask), box_of(change.mask, self.border)
        for grow in GROWTHS if max_error is not None else GROWTHS[:1]:
            with self._making() as calls:
                told = {} if job is None else {"after_step": self._previews(job, change, box, calls)}
                found = self._redraw(self.version, change, calls, clock, progress, grow, **told).result()
                if max_error is not None and grow is not GROWTHS[-1]:
                    with clock.of("estimate"):
                        too_far = found.check is not None and found.check.error > max_error
                    if too_far:
                        continue
                with clock.of("store"):
                    edit = "inpaint" if change.repaint else "edit"
                    facts = self._facts(edit, region.fraction, change.start, change.conditioning, clock)
                    self._put(calls, found.tensors(), facts)
                break
        if job is not None:
            steps = len(self.sampler) - change.start
            job.show("result", self.version.number, box, found.pixels[box].copy(), (steps, steps), calls)
        return Edited(self.image, region, clock.total(), found.check), calls

    def _redraw(
        self,
        version: Version,
        change: Change,
        run: Evaluations,
        clock: Clock,
        progress: Progress = silent,
        grow: Growth = GROWTHS[0],
        after_step: AfterStep = lambda *_: None,
    ) -> Redraw:
        original = self.versions[0].tensors
        return Redraw(
            self.process, original, version.tensors, change, run, self.calibration, clock, progress, grow, after_step
        )

    def _previews(self, job: Job[Edited], change: Change, box: Box, calls: Calls) -> Previews:
        return Previews(job, self.process, self._colours, change, self.pixels, box, self._next, calls)

    @cached_property
    def _colours(self) -> LinearMap:
        first = self.versions[0].tensors
        return LinearMap.fitted(first["latents"][-1:], first["image"].numpy())

    # The estimate of the error

    def calibration(self) -> Calibration:
        """What a disagreement between an update and the dense model stands for, under this model and policy.

        Measured when it is first asked for, on one edit of the original that is computed both ways; the session keeps
        it, in its folder as well. Known without that under `exact`, and for the built-in model.
        """
        if self.policy.exact:
            return EXACT
        if self.settings["model"] in FITTED:
            return FITTED[self.settings["model"]]
        if "calibration" not in self.settings:
            measured = asdict(self._measured())
            with self.lock:
                self.settings["calibration"] = measured
        return Calibration(**self.settings["calibration"])

    def _measured(self) -> Calibration:
        first = self.versions[0]
        pixels, mask = sample_edit(first.pixels)
        change = Change(pixels, self._joins(mask.astype(float)), self._recorded_with(first))

        def redraw(run: Evaluations) -> Redraw:
            return self._redraw(first, change, run, Clock())

        updated, dense = (redraw(run).result() for run in (self._trial(), Whole()))
        error, floor = root_mean_square(updated.pixels, dense.pixels, mask), 0.0
        if self.nets.decoder is not None:
            decoded = from_tensor(redraw(self._trial()).decoded(dense.latents))
            floor = root_mean_square(decoded, from_tensor(redraw(Whole()).decoded(dense.latents)), mask)
        assert updated.check is not None
        return Calibration.measured(updated.check.disagreement, error, floor)

    def _trial(self) -> Calls:
        """Calls from the original that no version keeps."""
        return Calls(self.store, self.versions[0].snapshots, None)

    def _difference_mask(self, conditioning: Conditioning) -> Mask:
        """Where the predictions for the session's texts and for others differ by more than half the most."""
        latents, denoiser = self.version.tensors["latents"], self.process.denoiser
        last = len(self.sampler) - 1
        differences = []
        for i in np.unique(np.linspace(self.first, last, MASK_STEPS + 2).astype(int)[1:-1]):
            x = latents[i - self.first][None]
            old, new = (denoiser.step(self.process.dense, i, x, c) for c in (self.conditioning, conditioning))
            differences.append((new - old).abs().mean(1)[0])
        mean = torch.stack(differences).mean(0)
        scaled = mean / mean.quantile(0.99).clamp(min=1e-12)
        cells: Mask = (scaled > 0.5).numpy()
        mask: Mask = Region.from_mask(cells).on(Grid(*self.size)).mask[0]
        return mask

    # Recording

    @locked
    def record_photograph(self, pixels: Pixels, progress: Progress = silent) -> None:
        """Make a photograph the session's first version: the network on it at every level of noise."""
        clock = Clock()
        total = len(self.sampler) - self.first + 2
        with self._making() as calls:
            progress(0, total, "encoding")
            with clock.of("encode"):
                latent = self.process.to_latent(pixels, calls.record)
            noise = self.sampler.noise(tuple(latent.shape))
            positions = range(self.first, len(self.sampler) + 1)
            latents = torch.cat([self.sampler.noised(latent, noise, i) for i in positions])
            for i in positions[:-1]:
                progress(i - self.first + 1, total, f"recording step {i - self.first + 1} of {len(positions) - 1}")
                with clock.of("denoise"):
                    self._record_step(i, latents[i - self.first][None], latent, calls)
            progress(total - 1, total, "recording the decoder")
            with clock.of("decode"):
                self.process.to_pixels(latent, calls.record)
            self._put_first(calls, Redrawn(latents, pixels, pixels), "photograph", clock)
        progress(total, total, "recorded")

    @locked
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
                pixels = from_tensor(self.process.to_pixels(x, calls.record))
            progress(total - 1, total, "recording the encoder")
            with clock.of("encode"):
                self.process.to_latent(pixels, calls.record)
            self._put_first(calls, Redrawn(torch.cat(latents), pixels, pixels), "generated", clock)
        progress(total, total, "recorded")

    def _record_step(self, i: int, x: Tensor, visible: Tensor | None, calls: Calls) -> Tensor:
        def record(**inputs: Any) -> Any:
            return calls.record(snapshot_name(i), self.nets.denoiser, **inputs)

        return self.process.denoiser.step(record, i, x, self.conditioning, None, visible)

    def _put_first(self, calls: Calls, found: Redrawn, edit: str, clock: Clock) -> None:
        self._put(calls, found.tensors(), self._facts(edit, 1.0, self.first, self.conditioning, clock))

    def _facts(self, edit: str, region: float, start: int, conditioning: Conditioning, clock: Clock) -> dict[str, Any]:
        return {
            "edit": edit,
            "region": region,
            "steps": len(self.sampler) - start,
            "prompt": conditioning.prompt,
            "negative": conditioning.negative,
            "class_label": conditioning.class_label,
            "seconds": clock.total(),
        }

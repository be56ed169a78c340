"""Sessions on an image of a diffusion model: every denoising step recorded, edits along the whole trajectory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar, Unpack

import numpy as np
from PIL import Image
from torch import Tensor

from retouch.editing.archive import Progress, silent
from retouch.editing.area import AreasLike
from retouch.editing.blend import FADE, is_blend
from retouch.editing.calls import Calls, Clock
from retouch.editing.canvas.view import ViewSession
from retouch.editing.choice import VariantsError
from retouch.editing.diffusion.adopting import adopted
from retouch.editing.diffusion.asked import Asked, Current, Options
from retouch.editing.diffusion.change import Change
from retouch.editing.diffusion.contents import Redrawn, behind, is_complete
from retouch.editing.diffusion.denoiser import snapshot_name
from retouch.editing.diffusion.drawing import Drawing
from retouch.editing.diffusion.estimate import EXACT, FITTED, Calibration, root_mean_square, sample_edit
from retouch.editing.diffusion.guides import UNGUIDED, Guides
from retouch.editing.diffusion.log import STROKES, change_of, pictures_of, strokes_of
from retouch.editing.diffusion.model import Conditioning, Model, PipelineError
from retouch.editing.diffusion.preview import LinearMap, Previews
from retouch.editing.diffusion.process import Evaluations, Growth, Process, Whole
from retouch.editing.diffusion.recorder import Recorder, noised
from retouch.editing.diffusion.redraw import GROWTHS, AfterStep, Redraw
from retouch.editing.diffusion.refine import Refinement, remade
from retouch.editing.diffusion.sampler import Sampler
from retouch.editing.diffusion.variants import Variant, Variants, check_room, seeded, seeds_of, varied
from retouch.editing.fields import Fields, finite, listed, maybe, number, optional, positive, record, table, text, whole
from retouch.editing.images import (
    Box,
    ImageLike,
    Pixels,
    as_pixels,
    as_strengths,
    box_of,
    check_same,
    difference,
    from_tensor,
    threshold_of,
)
from retouch.editing.jobs import Frames, Job
from retouch.editing.recent import Recent
from retouch.editing.replay import Cropped, Pictures
from retouch.editing.session import GAIN, locked
from retouch.editing.stages import ENOUGH, stages_of
from retouch.editing.version import Edited, Version
from retouch.errors import OptionError
from retouch.incremental import Incremental
from retouch.plan.region import Mask, Region
from retouch.runtime.store import Store

NOWHERE: Box = (slice(0, 0), slice(0, 0))

TEXTS = 16
"""The embeddings of so many pairs of texts are kept."""


@dataclass(frozen=True, eq=False)
class Begun:
    """An edit of a session, from where it began: `redraw` computes it, `keep` makes the result the current version."""

    redraw: Redraw
    keep: Callable[[Redrawn], Edited]
    take_back: Callable[[], None]


class DiffusionSession(ViewSession):
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
        "blend": maybe(is_blend),
        "prompts": maybe(listed(lambda size: isinstance(size, list) and len(size) == 2 and all(map(positive, size)))),
    }
    saved_facts: ClassVar[Fields] = {
        "scales": maybe(table(finite)),
        "steps": whole, "prompt": optional(text), "negative": optional(text),
        "class_label": maybe(optional(whole)), "refined": maybe(text), "seed": maybe(whole),
        "areas": maybe(listed(record({"prompt": text, "negative": optional(text)}))),
        "blend": maybe(is_blend), "growth": maybe(lambda found: whole(found) and found < len(GROWTHS)),
    }  # fmt: skip

    def __init__(
        self,
        model: Model,
        sampler: Sampler,
        conditioning: Conditioning,
        store: Store,
        settings: dict[str, Any],
        progress: Progress = silent,
    ) -> None:
        super().__init__(store, settings)
        self.model, self.sampler, self.policy = model, sampler, model.policy
        self.size: tuple[int, int] = (settings["height"], settings["width"])
        self.first: int = settings["first"]
        self.nets = model.networks(self.size, conditioning, progress)
        self.process = Process(model, self.nets, sampler, self.size, self.first)
        self._opened_with = conditioning
        self._known: Recent[tuple[Any, ...], Conditioning] = Recent(TEXTS)
        self._adapted = model.adapters.key

    def networks(self) -> dict[str, Incremental]:
        """Denoiser, and encoder and decoder of a latent model."""
        return self.nets.named()

    def calls(self) -> dict[str, str]:
        """One for each step, one for the encoder and the decoder."""
        steps = {snapshot_name(i): "denoiser" for i in range(self.first, len(self.sampler))}
        return steps | {name: name for name in self.networks() if name != "denoiser"}

    def is_complete(self, version: Version) -> bool:
        """True when images and latents are there."""
        return is_complete(version.tensors, self.process)

    @property
    def conditioning(self) -> Conditioning:
        """What the current version is conditioned on."""
        if not self.versions:
            return self._opened_with
        return self._recorded_with(self.version)

    def _recorded_with(self, version: Version) -> Conditioning:
        facts = version.facts
        guides = Guides.of(version.tensors, facts)
        return self._condition(facts["prompt"], facts["negative"], facts.get("class_label"), guides)

    def _condition(
        self, prompt: str | None, negative: str | None, class_label: int | None = None, guides: Guides = UNGUIDED
    ) -> Conditioning:
        if (prompt, negative, class_label, guides) == self._opened_with.asked:
            return self._opened_with
        guidance, encoded = float(self.settings["guidance"]), replace(guides, controls=())
        made = partial(self.model.condition, prompt, negative, guidance, self.size, class_label, encoded)
        found = self._known.get((prompt, negative, class_label, encoded), made)
        return found if found.guides == guides else replace(found, guides=guides)

    @property
    def threshold(self) -> int:
        """Grey levels by which an edited image may differ from the current one without being edited: 0 if exact."""
        return threshold_of(self.policy)

    @property
    def border(self) -> int:
        """Pixels around a region in which an edit's result passes into the old image."""
        return self.process.border

    @property
    def blend(self) -> str:
        """How results are set into the picture, where an edit does not say it: a name of `editing.blend.BLENDS`."""
        return str(self.settings.get("blend", FADE))

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
        max_error: float | None = None,
        threshold: int | None = None,
        areas: AreasLike = (),
        progress: Progress = silent,
        **options: Unpack[Options],
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
        areas: parts of the picture with words of their own, each an `Area`, (mask, prompt) or (mask, prompt,
            negative). Only the rows of an area read its words (see `retouch.editing.diffusion.areas`), all others
            the session's; where areas overlap the later wins. Without `mask` the edit covers them, too, with the
            strength that their masks give. They hold for this edit alone.
        blend: how the result is set into the picture, "fade", "multiband" or "harmonise"; None: that of the session.
        control: for pipelines with ControlNets or T2I-Adapters, other control images of the picture's size, one or a
            list of one for each; without `mask` the edit covers where they differ from the session's, and inside the
            region they take their place. image_prompt: for pipelines with IP-Adapters, other pictures that these read.
            scales: those of LoRAs that are not fused, as `set_adapters` takes them, and of controls ("control-1" ...),
            by name. The session keeps all of them, as it does texts, and only the region follows them.

        Pixels outside the region, grown by the policy's dilation, stay bit for bit. Returns at once when
        nothing changed. Raises ImageError, PipelineError, SchedulerError or OptionError for bad input; then, and
        when it is interrupted, the session is as before.
        """
        asked = Asked.of(options, image, mask, threshold=threshold, areas=areas)
        return self._edited(asked, max_error, progress)[0]

    @locked
    def inpaint(
        self,
        mask: ImageLike,
        *,
        max_error: float | None = None,
        areas: AreasLike = (),
        progress: Progress = silent,
        **options: Unpack[Options],
    ) -> Edited:
        """Fill the white part of a mask anew, to fit its surroundings and the prompt. Otherwise like `edit`.

        At strength 1 nothing of what was there is kept; below it, and where the mask is grey, the filling starts
        from the old content.
        """
        asked = Asked.of(options, None, mask, areas=areas, inpaint=True)
        return self._edited(asked, max_error, progress)[0]

    @locked
    def adopt(self, image: ImageLike, mask: ImageLike | None = None) -> Edited:
        """Take pixels as they are into the picture, without redrawing anything.

        image: a picture of the session's size. mask: where it is taken, any grey of it; None: where it differs from the
            current one at all.

        The picture is then exactly that, all else bit for bit as before. The recordings become those of the new
        picture: of a photograph as if it had been opened with these pixels; of a generated picture with the noise that
        its trajectory holds at each step, as there is no trajectory that ends at pixels from elsewhere. The encoder is
        updated at once, each other recording by the first edit that reads it, together with what that computes; so this
        takes less than an edit. What the picture is conditioned on stays.

        Raises ImageError for a picture or mask of another size or that cannot be read, and for a mask without any grey;
        the session is then as before.
        """
        clock, given, old = Clock(), as_pixels(image), self.version.pixels
        where = difference(old, given, 0) if mask is None else as_strengths(mask, self.size) > 0
        check_same(old, given, "pictures")
        region = Region.from_mask(where)
        if not where.any():
            return Edited(self.image, region, clock.total())
        pixels, original = np.where(where[..., None], given, old), self.versions[0].tensors
        with self._making() as calls:
            with clock.of("encode"):
                found = adopted(self.process, original, self.version.tensors, pixels, where, calls)
            with clock.of("store"):
                facts = self._facts("adopted", region.fraction, len(self.sampler), self.conditioning, clock)
                self._put(calls, found.tensors(), facts, Pictures({STROKES: Cropped.strokes(pixels, where)}))
        return Edited(self.image, region, clock.total())

    @locked
    def draw(
        self,
        image: ImageLike | None,
        mask: ImageLike,
        inpaint: bool,
        options: Mapping[str, Any],
        progress: Progress = silent,
        frames: Frames | None = None,
        refine: float | str | None = None,
    ) -> tuple[Edited, Refinement | None]:
        """`edit`, or with `inpaint` what `inpaint` does, that shows itself on the way, and what `refine` asks for
        afterwards (see `submit`); `options` are of `edit`.
        """
        given = dict(options)
        max_error = given.pop("max_error", None)
        return self._edited(Asked(image, mask, inpaint=inpaint, **given), max_error, progress, frames, refine)

    def redraw(
        self,
        photograph: Pixels,
        image: ImageLike | None,
        mask: ImageLike,
        inpaint: bool,
        options: Mapping[str, Any],
        progress: Progress = silent,
        frames: Frames | None = None,
    ) -> tuple[Edited, dict[str, Any]]:
        """What the dense networks make of an edit of a photograph of the session's size, and facts of that.

        Nothing of it is recorded, nor must anything be; all else as in `draw`, but that `frames` are previews alone.
        """
        clock, calls, given = Clock(), Whole(), dict(options)
        given.pop("max_error", None)  # there is no error
        clean = self.process.encoded(photograph, photograph, calls)
        guides = self.conditioning.guides
        tensors = Redrawn(noised(self.process, clean), photograph, photograph, guides=guides).tensors()
        asked, strength = Asked(image, mask, inpaint=inpaint, **given), float(self.settings["strength"])
        how = self.conditioning, self._condition, strength, self.blend, False
        change = Current(self.process, photograph, None, *how).change(asked)
        redraw = Redraw(self.process, tensors, tensors, change, calls, self.calibration, clock, progress)
        if frames is not None:
            colours, box = LinearMap.fitted(tensors["latents"][-1:], photograph), box_of(change.mask, self.border)
            redraw.after_step = Previews(frames, self.process, colours, change, photograph, box, self._next)
        with self.worker.claimed():
            found = redraw.result()
        edited = Edited(Image.fromarray(found.pixels), Region.from_mask(change.mask), clock.total())
        macs = sum(net.macs for net in self.networks().values())
        return edited, {**self._edit_facts(change, clock), "bytes_read": 0, "macs": macs, "dense_macs": macs}

    def submit(
        self,
        image: ImageLike | None = None,
        *,
        mask: ImageLike | None = None,
        max_error: float | None = None,
        threshold: int | None = None,
        areas: AreasLike = (),
        inpaint: bool = False,
        base: int | None = None,
        refine: float | str | None = ENOUGH,
        join: bool = True,
        progress: Progress = silent,
        **options: Unpack[Options],
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
        picture = None if image is None else as_pixels(image)
        asked = Asked.of(options, picture, mask, threshold=threshold, areas=areas, inpaint=inpaint)
        drawing = self.at_once(lambda: self._drawing(asked, base, max_error, refine, progress))
        return self.start(drawing, join)

    def _drawing(
        self, asked: Asked, base: int | None, max_error: float | None, refine: float | str | None, progress: Progress
    ) -> Drawing:
        """An edit apart from the current picture."""
        if asked.image is not None and base is not None:
            asked = replace(asked, image=self._moved_on(as_pixels(asked.image), base))
        asked = asked.read(self.size)
        current = self._current()
        strengths = current.strengths(asked)
        grey = strengths if strengths.any() else None
        pixels = current.known(replace(asked, mask=grey)).pixels
        drawn = difference(pixels, current.pixels, 0)
        asked = replace(asked, image=None, mask=None)
        return Drawing(self._draw, self.meets, pixels, drawn, grey, asked, max_error, refine, progress)

    def meets(self, mask: Mask) -> Incremental | None:
        """The denoiser, where edits of several sessions with such a mask gain by being computed together."""
        net, region = self.nets.denoiser, self.process.around(Region.from_mask(mask))
        return net if net.gain(region) >= GAIN else None

    def _moved_on(self, drawn: Pixels, base: int) -> Pixels:
        """What was drawn on the version of that number, on the current picture."""
        if not self.versions and base == 0:
            return drawn
        version = self.history.find(base)
        if version is None:
            raise OptionError(f"there is no version {base} to draw on")
        below = version.pixels
        check_same(below, drawn, "pictures")
        moved: Pixels = np.where(drawn != below, drawn, self.pixels)
        return moved

    @locked
    def _draw(self, drawing: Drawing, job: Job[Edited]) -> tuple[Edited, Refinement | None]:
        """What a job computes."""
        asked = replace(drawing.asked, image=drawing.on(self.pixels), mask=drawing.mask)
        made = self._edited(asked, drawing.max_error, drawing.progress, job, drawing.refining)
        if not made[0].changed:
            job.show("result", self.version.number, NOWHERE, self.pixels[NOWHERE], (0, 0))
        return made

    def _edited(
        self,
        asked: Asked,
        max_error: float | None,
        progress: Progress,
        frames: Frames | None = None,
        refine: float | str | None = None,
    ) -> tuple[Edited, Refinement | None]:
        """An edit made, and how it is refined (None: not at all)."""
        clock = Clock()
        self.ready()
        change = self._current().change(asked)
        if not change.mask.any():
            return Edited(self.image, Region.from_mask(change.mask), clock.total()), None
        before, (stages, bound) = self.version, stages_of(refine)
        edited, calls = self._run(change, clock, progress, max_error, frames)
        if self.policy.exact or calls.macs >= calls.dense_macs:  # it is the dense model's already
            stages = []
        if not stages:
            return edited, None

        def redrawn(run: Evaluations, grow: Growth) -> Redrawn:
            return self._redraw(before, change, run, Clock(), grow=grow).result()

        anew = partial(Calls, self.store, before.snapshots, None)
        return edited, Refinement(
            self.version, edited.estimate, stages, bound, anew, redrawn, self.replace, self.is_last, self.settle
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
        threshold: int | None = None,
        progress: Progress = silent,
        **options: Unpack[Options],
    ) -> Variants:
        """One edit with `count` seeds, computed together; the session stays as it is until one is chosen.

        Takes the arguments of `edit`, or with `inpaint` those of `inpaint`. The first seed is the session's own, so the
        first variant is what `edit` makes; the others are those after it, or what `seeds` says, which are `count`.
        The noise of a seed is seen in the region alone.

        Raises VariantsError, before anything is computed, for fewer than one, for an edit that changes nothing, and
        when that many do not fit into memory; and what `edit` raises.
        """
        chosen = seeds_of(count, seeds, self.settings["seed"])
        self.ready()
        asked = Asked.of(options, image, mask, threshold=threshold, areas=(), inpaint=inpaint)
        change = self._current().change(asked)
        if change.areas is not None:
            raise VariantsError("an edit before this one gave words to areas, which variants under `exact` cannot read")
        if not change.mask.any():
            raise VariantsError("nothing is edited, so there is nothing to vary; draw, or give a mask or a prompt")
        self._check_room(change, count)
        self.worker.stop_refining(self)  # which would replace the version that they are made from
        base, clocks, told = self.version, [Clock() for _ in chosen], [progress, *[silent] * (count - 1)]
        calls = [Calls(self.store, base.snapshots, None) for _ in chosen]
        redraws = [self._redraw(base, change, *each) for each in zip(calls, clocks, told, strict=True)]
        with self.worker.claimed():
            found = varied(redraws, chosen, self.settings["seed"])
        region, facts = Region.from_mask(change.mask), self._edit_facts(change, clocks[0])
        drawn = pictures_of(change, base.pixels)
        made = (Variant(*each, region, facts, drawn) for each in zip(chosen, found, calls, strict=True))
        return Variants(self, base, tuple(made))

    def _check_room(self, change: Change, count: int) -> None:
        nets, late = self.networks(), behind(self.version.tensors, self.size) > change.start
        region = Region.from_mask(change.mask | late)
        regions = {"denoiser": self.process.around(region)}
        demands = {name: net.demand(regions.get(name, region)) for name, net in nets.items()}
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
                self._put(calls, variant.found.tensors(), {**variant.facts, "seed": variant.seed}, variant.drawn)
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
        inpaint: bool = False,
        areas: AreasLike = (),
        progress: Progress = silent,
        **options: Unpack[Options],
    ) -> Edited:
        """What the dense networks make of the same edit, all else equal; the session stays as it is.

        Takes the arguments of `edit`, or with `inpaint` those of `inpaint`. Every difference between `image` and
        the current one counts, the smallest, too.
        """
        self.ready()
        clock = Clock()
        asked = Asked.of(options, image, mask, threshold=0, areas=areas, inpaint=inpaint)
        change = self._current().change(asked)
        found = self._redraw(self.version, change, Whole(), clock, progress).result()
        return Edited(Image.fromarray(found.pixels), Region.from_mask(change.mask), clock.total())

    def _current(self) -> Current:
        """The current version, as edits are asked of it. PipelineError when the pipeline's adapters are others now."""
        if self.model.adapters.key != self._adapted:
            raise PipelineError(
                "adapters were added to the pipeline, or taken from it, since the session was opened; take that back, "
                "or open the picture again"
            )
        if self.versions:
            return self._at(self.version)
        strength = float(self.settings["strength"])
        return Current(
            self.process, self.pixels, None, self._opened_with, self._condition, strength, self.blend, had_areas=False
        )

    def _at(self, version: Version) -> Current:
        """A version, as edits are asked of it."""
        return Current(
            self.process,
            version.pixels,
            version.tensors.get("latents"),
            self._recorded_with(version),
            self._condition,
            float(self.settings["strength"]),
            self.blend,
            any(each.facts.get("areas") for each in self.history.path(version.number)),
        )

    def change(self, asked: Asked) -> Change:
        """What an edit comes to on the current version. Raises what `edit` raises for bad input."""
        return self._current().change(asked)

    @contextmanager
    def begun(self, change: Change, progress: Progress, frames: Frames | None) -> Iterator[Begun]:
        """An edit that is computed in a block, by whoever holds the session's lock, and shows its steps as `frames`."""
        clock, box = Clock(), box_of(change.mask, self.border)
        with self._making() as calls:
            history = self._history
            told = {} if frames is None else {"after_step": self._previews(frames, change, box, calls)}

            def keep(found: Redrawn) -> Edited:
                self._put(calls, found.tensors(), self._edit_facts(change, clock))
                return Edited(self.image, Region.from_mask(change.mask), clock.total(), found.check)

            def take_back() -> None:
                if self._history is not history:
                    self._commit(history)

            yield Begun(self._redraw(self.version, change, calls, clock, progress, GROWTHS[0], **told), keep, take_back)

    def _run(
        self, change: Change, clock: Clock, progress: Progress, max_error: float | None, job: Frames | None = None
    ) -> tuple[Edited, Calls]:
        region, box = Region.from_mask(change.mask), box_of(change.mask, self.border)
        for growth, grow in enumerate(GROWTHS if max_error is not None else GROWTHS[:1]):
            with self._making() as calls:
                told = {} if job is None else {"after_step": self._previews(job, change, box, calls)}
                found = self._redraw(self.version, change, calls, clock, progress, grow, **told).result()
                if max_error is not None and grow is not GROWTHS[-1]:
                    with clock.of("estimate"):
                        too_far = found.check is not None and found.check.error > max_error
                    if too_far:
                        continue
                with clock.of("store"):
                    drawn = pictures_of(change, self.pixels)
                    self._put(calls, found.tensors(), {**self._edit_facts(change, clock), "growth": growth}, drawn)
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
        after_step: AfterStep | None = None,
    ) -> Redraw:
        original = self.versions[0].tensors
        return Redraw(
            self.process, original, version.tensors, change, run, self.calibration, clock, progress, grow, after_step
        )

    def _previews(self, job: Frames, change: Change, box: Box, calls: Calls) -> Previews:
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
        change = Change(pixels, self._current().joins(mask.astype(float)), self._recorded_with(first), self.blend)

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

    # Recording

    def record_photograph(self, pixels: Pixels, progress: Progress = silent) -> None:
        """Make a photograph the session's first version: the network on it at every level of noise."""
        self._record("photograph", lambda recorder: recorder.photograph(pixels), progress)

    def record_generated(self, progress: Progress = silent) -> None:
        """Generate an image and make it the session's first version: the trajectory that made it."""
        self._record("generated", Recorder.generated, progress)

    @locked
    def _record(self, edit: str, made: Callable[[Recorder], Redrawn], progress: Progress) -> None:
        clock = Clock()
        with self._making() as calls:
            found = made(Recorder(self.process, self.conditioning, calls, clock, progress))
            self._put(calls, found.tensors(), self._facts(edit, 1.0, self.first, self.conditioning, clock), {})
        progress(1, 1, "recorded")

    def remake(self, version: Version, parent: Version | None, calls: Calls, progress: Progress) -> dict[str, Tensor]:
        """All tensors: recorded, or by the edit that its pictures and facts tell."""
        facts, clock = version.facts, Clock()
        if parent is None:
            recorder = Recorder(self.process, self._recorded_with(version), calls, clock, progress)
            photograph = facts["edit"] == "photograph"
            return (recorder.photograph(version.pixels) if photograph else recorder.generated()).tensors()
        drawn = version.drawn or {}
        if facts["edit"] == "adopted":
            where, pixels = strokes_of(drawn, parent.pixels)
            return adopted(self.process, self.versions[0].tensors, parent.tensors, pixels, where, calls).tensors()
        change = change_of(drawn, facts, self._at(parent), self._recorded_with(version))
        run, growth = remade(facts.get("refined"), facts.get("growth", 0), calls)
        redraw, own = self._redraw(parent, change, run, clock, progress, growth), self.settings["seed"]
        return seeded(redraw, facts.get("seed", own), own).result().tensors()

    def _edit_facts(self, change: Change, clock: Clock) -> dict[str, Any]:
        edit, share = "inpaint" if change.repaint else "edit", Region.from_mask(change.mask).fraction
        facts = self._facts(edit, share, change.start, change.conditioning, clock)
        facts["blend"] = change.blend
        return {**facts, "areas": [*change.words]} if change.words else facts

    def _facts(self, edit: str, region: float, start: int, conditioning: Conditioning, clock: Clock) -> dict[str, Any]:
        return {
            "edit": edit,
            "region": region,
            "steps": len(self.sampler) - start,
            "prompt": conditioning.prompt,
            "negative": conditioning.negative,
            "class_label": conditioning.class_label,
            "seconds": clock.total(),
            **({"scales": dict(conditioning.guides.scales)} if conditioning.guides.scales else {}),
        }

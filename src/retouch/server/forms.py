"""What callers say of a session or an edit, checked before anything is computed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(max_length=2000)]
Number = Annotated[int, Field(ge=0, lt=2**31)]
Side = Annotated[int, Field(ge=1, le=65536)]
Border = Annotated[int, Field(ge=0, le=65536)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Refine = bool | Literal["off", "step", "dense"] | Annotated[float, Field(ge=0, le=255, allow_inf_nan=False)]


class Form(BaseModel):
    """Fields that are there are known ones."""

    model_config = ConfigDict(extra="forbid")


class OpenForm(Form):
    """A session to be made: of the picture that comes with this, or with `generate` of words alone.

    size: [H, W] of what is generated. canvas: whether viewports of the picture are edited, or all of it is one session;
    None: a session for a picture that the network divides and that has half to one and a half times the pixels that it
    was trained for. What is None is as the model has it.
    """

    model: Annotated[str, Field(max_length=200)] | None = None
    prompt: Text | None = None
    negative: Text | None = None
    strength: Share | None = None
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    guidance: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    size: tuple[Side, Side] | None = None
    generate: bool = False
    canvas: bool | None = None

    def options(self) -> dict[str, object]:
        """Those that an editor takes."""
        given = self.model_dump(include={"prompt", "negative", "strength", "steps", "guidance", "seed"})
        return {name: value for name, value in given.items() if value is not None}


class AreaForm(Form):
    """The words of a part of the picture; negative None: as for the rest."""

    prompt: Annotated[str, Field(min_length=1, max_length=2000)]
    negative: Text | None = None


class DrawnForm(Form):
    """What is asked of a version.

    base: the version that it was drawn on, which is the head. rect: left, top, width and height of what comes with
    this, in pixels of what is painted on; None: all. kind: "inpaint" fills the mask anew. soft: levels of masks are
    strengths. seed: of variants, the first. refine: whether the result is bettered afterwards, how far, or the grey
    levels that are close enough. instance: of labels, the id of what is painted; None: a new one. areas: words for
    parts of the picture, whose masks come with this in the same order; of edits, not of variants.
    """

    base: Number
    rect: tuple[Number, Number, Number, Number] | None = None
    kind: Literal["edit", "inpaint"] = "edit"
    prompt: Text | None = None
    negative: Text | None = None
    strength: Share | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    soft: bool = False
    refine: Refine = True
    instance: Annotated[int, Field(ge=0, lt=2**24)] | None = None
    areas: Annotated[list[AreaForm], Field(max_length=16)] = []


class EditForm(DrawnForm):
    """An edit. draft: it is shown and makes no version; the next edit or draft takes its place."""

    draft: bool = False


class VariantsForm(DrawnForm):
    """Several edits that differ by their seeds."""

    n: Annotated[int, Field(ge=1, le=16)] = 4


class LookForm(Form):
    """Left, top, width and height of what a page shows of a canvas."""

    rect: tuple[Number, Number, Number, Number]


class ExpandForm(Form):
    """Pixels that a canvas gets on each side, and the words for them; base: the head."""

    base: Number
    left: Border = 0
    top: Border = 0
    right: Border = 0
    bottom: Border = 0
    prompt: Text | None = None
    negative: Text | None = None
    strength: Share | None = None


class HeadForm(Form):
    """Which version to go to."""

    version: Number


class NameForm(Form):
    """What a version is called; empty: nothing."""

    name: Annotated[str, Field(max_length=100)]


class LoginForm(Form):
    """The token that the server printed."""

    token: Annotated[str, Field(max_length=200)]

"""Models loaded by name: where they go, what says so, and which of it saved sessions come back to."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

import retouch
from models.test_super_resolution import written
from pipelines import painted, picture, pipeline
from retouch import Editor, LabelEditor, OptionError, Upscaler
from retouch.editing.diffusion.asked import Options
from retouch.editing.gan import upscaler
from retouch.editing.gan.upscaler import Pretrained
from retouch.editing.kinds import KINDS, kind_of
from retouch.kernels import backend, described
from retouch.models import spade
from retouch.models.super_resolution import SRVGG
from support import fill

META = torch.device("meta")
SMALL = "builtin/realesr-animevideov3-x4"
LOADED = {"ddpm": Editor, SMALL: Upscaler, "net_G.pth": LabelEditor}


@pytest.fixture
def models(tmp_path, monkeypatch):
    """The models of `LOADED` in the working directory, small ones."""
    monkeypatch.chdir(tmp_path)
    pipeline("ddpm").save_pretrained("ddpm")
    Path("tiny.bin").write_bytes(written(fill(SRVGG(3, 8), 0)))
    monkeypatch.setitem(upscaler.PRETRAINED, SMALL, Pretrained(lambda: SRVGG(3, 8), "tiny.bin", "exact"))
    monkeypatch.setattr(upscaler, "weight_file", lambda name: tmp_path / name)
    torch.save(fill(spade.spade(4, 6), 0).state_dict(), "net_G.pth")


@pytest.fixture
def accelerator(monkeypatch):
    """The machine has a device that works, and holds no numbers."""
    monkeypatch.setattr("retouch.kernels.devices._accelerator", lambda: META)


def tensors(editor):
    modules = editor.model.pipe.components.values() if isinstance(editor, Editor) else [editor.module]
    return [x for module in modules if isinstance(module, torch.nn.Module) for x in module.state_dict().values()]


@pytest.mark.parametrize("name", LOADED)
def test_a_model_goes_to_the_accelerator(name, models, accelerator):
    editor = LOADED[name].from_pretrained(name, device_memory=0)
    assert editor.device == META
    assert {x.device for x in tensors(editor)} == {META}


@pytest.mark.parametrize("options", [{"device": "cpu"}, {"backend": "cpu"}])
@pytest.mark.parametrize("name", LOADED)
def test_a_model_stays_on_the_cpu_where_that_is_asked_for(name, options, models, accelerator):
    editor = LOADED[name].from_pretrained(name, **options)
    assert {x.device.type for x in tensors(editor)} == {editor.device.type} == {"cpu"}


def test_an_upscaler_is_placed_by_either_name(models, accelerator):
    assert Editor.from_pretrained(SMALL, device_memory=0).device == META
    assert Editor.from_pretrained(SMALL, device="cpu").device.type == "cpu"


@pytest.mark.parametrize("name", LOADED)
def test_a_device_that_is_missing_is_refused(name, models):
    with pytest.raises(ValueError, match="cannot compute on the device 'abacus'"):
        LOADED[name].from_pretrained(name, device="abacus")


@pytest.mark.parametrize("name", LOADED)
def test_editors_say_which_kernels_compute_where(name, models):
    editor = LOADED[name].from_pretrained(name)
    assert editor.kernels == 'cpu kernels on cpu (chosen by "auto" for cpu)'
    named = LOADED[name].from_pretrained(name, backend="reference")
    assert named.kernels == 'reference kernels on cpu ("auto" would take cpu)'


@pytest.mark.parametrize("name", LOADED)
def test_the_store_is_told_how_much_memory_to_take_of_which_device(name, models, accelerator, monkeypatch):
    made = []
    monkeypatch.setattr("retouch.editing.editor.Store", lambda *arguments: made.append(arguments))
    LOADED[name].from_pretrained(name, memory=5, device_memory=7, storage="bf16")
    LOADED[name].from_pretrained(name, device="cpu")
    assert [each[:5] for each in made] == [(5, None, "bf16", 7, META), (None, None, "fp32", None, torch.device("cpu"))]


@pytest.mark.parametrize("option", ["memory", "device_memory"])
@pytest.mark.parametrize("name", LOADED)
def test_less_than_no_memory_is_refused(name, option, models):
    with pytest.raises(ValueError, match="a budget of -1 bytes is negative"):
        LOADED[name].from_pretrained(name, **{option: -1})


# Sessions


@pytest.fixture
def session(models):
    """The folder of a session that was recorded on the CPU."""
    Upscaler.from_pretrained(SMALL).open(picture("ddpm"), folder="s").close()
    return Path("s")


def test_a_session_goes_on_where_its_kernels_run(session, accelerator):
    with retouch.open(session) as found:
        assert found.net.backend.name == "cpu"
        assert found.edit(painted(picture("ddpm"))).changed


def test_a_session_of_other_kernels_goes_to_the_accelerator(models, accelerator, monkeypatch):
    Upscaler.from_pretrained(SMALL, device="cpu", backend="reference").open(picture("ddpm"), folder="s").close()
    asked = []
    monkeypatch.setattr(Upscaler, "restore", lambda editor, *_: asked.append(editor.device))
    retouch.open("s", device_memory=0)
    retouch.open("s", device="cpu")
    assert asked == [META, torch.device("cpu")]


def test_a_device_that_is_missing_is_no_place_for_a_session(session):
    with pytest.raises(ValueError, match="cannot compute on the device 'abacus'"):
        retouch.open(session, device="abacus")
    with retouch.open(session) as found:
        assert np.array_equal(found.source, picture("ddpm"))


def test_a_session_in_float16_goes_on(models):
    options = {"dtype": torch.float16, "backend": "triton"}
    editor = Upscaler.from_pretrained(SMALL, **options)
    assert editor.kernels == described(backend("triton"))
    with editor.open(picture("ddpm")[:8, :8], folder="s") as made:
        pixels = made.pixels
    with retouch.open("s") as found:
        assert found.net.module.body[0].weight.dtype == torch.float16
        assert np.array_equal(found.pixels, pixels)
        assert found.edit(painted(found.source, 2, 2, 2)).changed


def test_a_session_in_int8_goes_on_in_int8(models, monkeypatch):
    monkeypatch.setattr("retouch.passes.arithmetic.BUDGET", 1.0)
    Path("tiny.bin").write_bytes(written(fill(SRVGG(3, 32), 0)))
    monkeypatch.setitem(upscaler.PRETRAINED, SMALL, Pretrained(lambda: SRVGG(3, 32), "tiny.bin", "exact"))
    editor = retouch.load(SMALL, dtype="int8", device="cpu")
    assert editor.dtype == backend("cpu").native
    with editor.open(picture("ddpm")[:8, :8], folder="s") as made:
        pixels = made.pixels
    with retouch.open("s") as found:
        assert any("int8_gemm" in op.kernels for op in found.net.program.ops)
        assert np.array_equal(found.pixels, pixels)
        assert found.edit(painted(found.source, 2, 2, 2)).changed


# One door for all kinds


def test_types_by_name(models, monkeypatch):
    load = lambda dtype: retouch.load(SMALL, dtype=dtype, device="cpu")  # noqa: E731
    for native in (torch.bfloat16, torch.float32):
        monkeypatch.setattr(backend("cpu"), "native", native)
        assert (load("auto").dtype, load("auto").arithmetic) == (native, "float")
        assert (load("int8").dtype, load("int8").arithmetic) == (native, "int8")
    assert load("bfloat16").dtype == torch.bfloat16
    with pytest.raises(OptionError, match="unknown dtype 'int4'; choose from: float32, bfloat16, float16, auto, int8"):
        load("int4")


@pytest.mark.parametrize("name", LOADED)
def test_an_unknown_arithmetic_is_refused(name, models):
    with pytest.raises(OptionError, match="unknown arithmetic 'int4'"):
        LOADED[name].from_pretrained(name, arithmetic="int4")


@pytest.mark.parametrize("name", LOADED)
def test_load_tells_kinds_apart(name, models):
    editor = retouch.load(name, device="cpu", policy="fast")
    assert type(editor) is LOADED[name]
    assert kind_of(name).editor is LOADED[name]
    assert (editor.model.policy if isinstance(editor, Editor) else editor.policy).name == "fast"


def test_what_is_loaded_is_found_again_from_another_folder(models, tmp_path, monkeypatch):
    with retouch.load("ddpm").open(picture("ddpm"), steps=2, strength=1.0, folder="s") as made:
        pixels = made.pixels
    monkeypatch.chdir(tmp_path.parent)
    with retouch.open(tmp_path / "s") as found:
        assert np.array_equal(found.pixels, pixels)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("builtin/other", "unknown built-in model 'builtin/other'; there are builtin/emoji"),
        ("./nothing", "there is no folder ./nothing"),
        (".", "holds no diffusers pipeline"),
        ("tiny.bin", "is a file"),
    ],
)
def test_models_that_are_none_are_refused(name, message, models):
    with pytest.raises(OptionError, match=message):
        retouch.load(name)


def test_every_kind_says_how_it_is_asked_for():
    for name, kind in KINDS.items():
        assert kind.name == kind.sessions.kind == name
        for taken, method in ((kind.form.opening, kind.editor.open), (kind.form.editing, kind.editor.sessions.edit)):
            several = {"area": "areas", "scale": "scales"}  # one is given at a time
            options = {several.get(name, name) for name in taken}
            known = set(inspect.signature(method).parameters)
            assert options <= (known | set(Options.__annotations__) if "options" in known else known)
        taken = kind.form.loading | kind.form.opening | kind.form.editing
        with pytest.raises(OptionError, match="--no-such"):
            kind.form.refuse_others({**dict.fromkeys(taken), "no_such": 1})


def test_errors_of_the_caller_have_one_base():
    names = [name for name in retouch.__all__ if name.endswith("Error") and name != "RetouchError"]
    assert {"ArchiveError", "ImageError", "OptionError", "PipelineError", "SchedulerError", "StoreError"} <= set(names)
    for name in ("ArchiveError", "ImageError", "OptionError", "PipelineError", "SchedulerError", "StoreError",
                 "WeightFileError"):  # fmt: skip
        assert issubclass(getattr(retouch, name), retouch.RetouchError)
    for name in ("ImageError", "OptionError", "PipelineError", "SchedulerError", "WeightFileError"):
        assert issubclass(getattr(retouch, name), ValueError)
    assert issubclass(retouch.StoreError, RuntimeError)

"""`retouch edit` with a LoRA from a file and a control image, and the session opened again."""

import diffusers
import peft
import pytest

from commands import run, said
from pipelines import adapted, painted, picture, with_lora
from retouch import Editor, PipelineError
from retouch.editing.images import save_png


def saved(pipe, folder):
    """The LoRA "hat" of a pipeline as a file."""
    weights = peft.get_peft_model_state_dict(pipe.unet, adapter_name="hat")
    diffusers.StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=weights)
    return folder / "pytorch_lora_weights.safetensors"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A pipeline with a ControlNet, a LoRA for it and pictures, in the current folder."""
    monkeypatch.chdir(tmp_path)
    pipe = adapted("control")
    pipe.save_pretrained("model")
    with_lora(pipe, "hat", 1)
    saved(pipe, tmp_path).rename("hat.safetensors")
    for name, pixels in (("photo", picture("sd")), ("painted", painted(picture("sd"))), ("sketch", picture("sd", 7))):
        save_png(pixels, f"{name}.png")
    save_png(painted(picture("sd", 7), 30, 30), "other.png")


def edit(original, edited, *more):
    return run("edit", f"{original}.png", f"{edited}.png", "-o", "out.png", "--session", "kept", "--force", *more)


def test_edits(files):
    new = ("--model", "model", "--steps", 2, "--guidance", 1, "--strength", 1.0, "--control", "sketch.png")
    result = edit("photo", "painted", *new, "--lora", "hat=hat.safetensors", "--scale", "hat=0.5")
    assert result.exit_code == 0, said(result)
    result = edit("out", "out", "--control", "other.png", "--scale", "control-1=0.8")
    assert result.exit_code == 0, said(result)
    assert "the session kept is at version 2" in result.stdout
    result = edit("out", "out", "--scale", "hut=1")
    assert result.exit_code == 2
    assert "no adapter 'hut' with a scale of its own; there are hat, control-1" in said(result)


def test_what_is_no_pair(files):
    result = edit("photo", "painted", "--model", "model", "--scale", "hat")
    assert result.exit_code == 2
    assert "--scale hat is not NAME=NUMBER" in said(result)


def test_a_lora_of_another_model(files, tmp_path):
    pipe = adapted("xl-controls")
    pipe.unet.add_adapter(peft.LoraConfig(r=4, target_modules=["to_k"]), adapter_name="hat")
    with pytest.raises(PipelineError, match=r"does not fit the layers of the pipeline: it was made for another model"):
        Editor.from_pretrained("model", loras={"hat": saved(pipe, tmp_path)}, device="cpu")

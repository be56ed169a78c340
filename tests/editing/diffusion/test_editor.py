"""Editors against the pipelines that they wrap, their files and their bad input."""

import json
import shutil

import diffusers
import numpy as np
import pytest
import torch

from pipelines import LATENT_PIXELS, painted, picture, pipeline
from retouch import Editor, PipelineError, SchedulerError
from support import fill

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

TEXT_TO_IMAGE = {"sd": diffusers.StableDiffusionPipeline, "sdxl": diffusers.StableDiffusionXLPipeline}


@pytest.mark.parametrize(
    ("name", "negative", "guidance", "scheduler"),
    [
        ("sd", None, 4.0, "ddim"),
        ("sd", "c", 4.0, "pndm"),
        ("sd", None, 1.0, "euler"),
        ("sdxl", None, 4.0, "euler"),
        ("sdxl", "c", 4.0, "dpm++"),
    ],
)
def test_text_to_image_is_that_of_the_pipeline(name, negative, guidance, scheduler):
    editor = Editor(pipeline(name), policy="fast", scheduler=scheduler)
    size = LATENT_PIXELS
    session = editor.generate("a b", negative=negative, guidance=guidance, size=(size, size), steps=5, seed=2)
    noise = session.sampler.noise(editor.model.latent_shape(session.size))
    parts = {**pipeline(name).components, "scheduler": editor.scheduler}
    extra = {"requires_safety_checker": False} if name == "sd" else {"add_watermarker": False}
    pipe = TEXT_TO_IMAGE[name](**parts, **extra)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        "a b", negative_prompt=negative, guidance_scale=guidance, height=size, width=size,
        num_inference_steps=5, latents=noise, output_type="np",
    ).images[0]  # fmt: skip
    assert np.abs(session.pixels - expected * 255).max() <= 1.01


def test_the_pipeline_stays_as_it_was():
    pipe = pipeline("sd")
    before = {n: t.clone() for n, t in pipe.unet.state_dict().items()}
    unet, scheduler, steps = pipe.unet, pipe.scheduler, pipe.scheduler.num_inference_steps
    Editor(pipe).open(picture("sd"), prompt="a", steps=2, strength=1.0).edit(painted(picture("sd")))
    assert pipe.unet is unet
    assert pipe.scheduler is scheduler
    assert scheduler.num_inference_steps == steps
    assert all(torch.equal(t, before[n]) for n, t in pipe.unet.state_dict().items())


@pytest.mark.parametrize("name", ["ddpm", "sd", "sdxl"])
def test_a_saved_pipeline_makes_the_same_pictures(name, tmp_path):
    pipeline(name).save_pretrained(tmp_path / "model")
    words = {} if name == "ddpm" else {"prompt": "a"}
    images = []
    for editor in (Editor(pipeline(name)), Editor.from_pretrained(tmp_path / "model")):
        session = editor.open(picture(name), steps=3, strength=0.7, **words)
        images.append(np.array(session.edit(painted(session.pixels)).image))
    assert np.array_equal(*images)


# Bad input


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((31, 32), "multiples of 2; crop or resize it, to 32x32"),
        ((0, 32), "multiples of 2"),
        ((16384, 16384), "larger than 100 megapixels"),
    ],
)
def test_sizes_that_do_not_fit(size, reason):
    with pytest.raises(PipelineError, match=reason):
        Editor(pipeline("ddpm")).generate(size=size, steps=2)


def test_words_of_the_wrong_kind():
    with pytest.raises(PipelineError, match="takes no prompt"):
        Editor(pipeline("ddpm")).open(picture("ddpm"), prompt="a", steps=2)


def damage_class(folder):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "NoSuchPipeline"}))


def damage_part(folder):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "unet": ["diffusers", "NoSuchModel"]}))


DAMAGE = {
    "no index": lambda folder: (folder / "model_index.json").unlink(),
    "broken index": lambda folder: (folder / "model_index.json").write_text("{"),
    "unknown pipeline": damage_class,
    "unknown part": damage_part,
    "missing part": lambda folder: shutil.rmtree(folder / "unet"),
    "missing weights": lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
    "cut weights": lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"12345678"),
    "broken configuration": lambda folder: (folder / "unet" / "config.json").write_text("[]"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_folders(kind, tmp_path):
    pipeline("ddpm").save_pretrained(tmp_path / "model")
    DAMAGE[kind](tmp_path / "model")
    with pytest.raises(PipelineError, match="no pipeline can be loaded from"):
        Editor.from_pretrained(tmp_path / "model")


def test_weights_in_pickles_are_refused(tmp_path):
    pipeline("ddpm").save_pretrained(tmp_path / "model", safe_serialization=False)
    with pytest.raises(PipelineError, match="no pipeline can be loaded from"):
        Editor.from_pretrained(tmp_path / "model")


def test_networks_that_cannot_be_edited():
    def unet(**options):
        sizes = {"sample_size": 16, "block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
        kinds = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
        return fill(diffusers.UNet2DModel(**sizes, **kinds, **options))

    scheduler = diffusers.DDPMScheduler()
    with pytest.raises(PipelineError, match=r"reads classes as vectors \(identity\)"):
        Editor(diffusers.DDPMPipeline(unet(class_embed_type="identity"), scheduler))
    with pytest.raises(PipelineError, match="must map 3 channels to 3, not 1 to 1"):
        Editor(diffusers.DDPMPipeline(unet(in_channels=1, out_channels=1), scheduler))
    with pytest.raises(SchedulerError, match="LMSDiscreteScheduler is not supported"):
        Editor(diffusers.DDPMPipeline(unet(), diffusers.LMSDiscreteScheduler()))

"""Autoencoders in the place of a pipeline's own: small, asymmetric, of another type; by object and by name."""

import diffusers
import numpy as np
import pytest
import torch

import retouch
from editing.diffusion.test_session import distance
from pipelines import asymmetric_vae, painted, picture, pipeline, tiny_vae
from retouch import ArchiveError, Editor, PipelineError
from retouch.editing.diffusion.autoencoder import Autoencoder
from retouch.models.transformers import dc_vae
from retouch.models.vae import encoder_of
from support import error, fill, noise

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

SHUFFLED = {"downsample_block_type": "pixel_unshuffle", "upsample_block_type": "pixel_shuffle"}
MAKERS = {
    "tiny": tiny_vae, "asymmetric": asymmetric_vae, "deep": lambda: fill(dc_vae(True)),
    "deep, shuffled": lambda: fill(dc_vae(True, **SHUFFLED)),
}  # fmt: skip
OPTIONS = {"prompt": "a b", "steps": 2, "strength": 0.5, "guidance": 1.0}


def with_own_vae():
    """An autoencoder of the usual kind with other weights, in another type."""
    made = diffusers.AutoencoderKL.from_config(pipeline("sd").vae.config)
    return fill(made, seed=5)


@pytest.mark.parametrize("kind", MAKERS)
def test_latents_and_pixels_are_those_of_the_autoencoder(kind):
    module = MAKERS[kind]()
    session = Editor(pipeline("sd"), vae=module, policy="exact").open(picture("sd"), **OPTIONS)
    pixels = torch.from_numpy(picture("sd")).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        encoded = module.encode(pixels)
        found = {"tiny": "latents", "deep": "latent"}.get(kind.partition(",")[0])
        mean = getattr(encoded, found) if found else encoded.latent_dist.mode()
        expected = mean * module.config.scaling_factor
        decoded = module.decode(expected / module.config.scaling_factor).sample
    latent = session.version.tensors["latents"][-1:]
    assert torch.allclose(latent, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    shown = session.process.to_pixels(latent, lambda name, net, *args: net.record(*args)[0])
    assert torch.allclose(shown, decoded, rtol=1e-3, atol=1e-3 * float(decoded.abs().max()))


@pytest.mark.parametrize("kind", MAKERS)
def test_networks_have_no_fallbacks_and_exact_edits_equal_the_dense_reference(kind):
    session = Editor(pipeline("sd"), vae=MAKERS[kind](), policy="exact").open(picture("sd"), **OPTIONS)
    for name in ("encoder", "decoder"):
        assert not session.networks()[name].explain().fallbacks
    drawn = painted(session.pixels)
    expected = session.reference(drawn)
    assert distance(session.edit(drawn).image, expected.image) <= 1


def test_attention_of_fewer_positions_than_channels_is_right_and_runs_densely():
    """`AutoencoderDC` computes it in another order there."""
    module, x = encoder_of(fill(dc_vae(True))).eval(), noise(1, 3, 8, 8)
    net = retouch.compile(module, (x,), policy="exact")
    assert net.explain().fallbacks
    with torch.no_grad():
        assert error(net.record(x)[0], module(x)) < 1e-5


def test_updates_of_a_small_autoencoder_compute_less():
    net = Editor(pipeline("taesd"), policy="fast").open(picture("taesd"), **OPTIONS).networks()["decoder"]
    part = net.explain(retouch.Region.from_mask(np.eye(64, dtype=bool) & (np.arange(64) < 3)))
    assert part.macs_active < part.macs_dense


def test_weights_of_another_type():
    """As decoders that are made for float16 and bfloat16."""
    module = with_own_vae().to(torch.bfloat16)
    session = Editor(pipeline("sd"), vae=module, policy="exact").open(picture("sd"), **OPTIONS)
    assert session.nets.decoder.program.inputs[0].dtype == torch.bfloat16
    drawn = painted(session.pixels)
    before, expected = session.pixels, session.reference(drawn)
    after = np.array(session.edit(drawn).image)
    assert distance(after, expected.image) <= 16  # an ulp of bfloat16 is a grey level
    far = np.ones(session.size, bool)
    far[:32, :32] = False
    assert np.array_equal(after[far], before[far])


def test_a_saved_session_finds_its_autoencoder_again(tmp_path):
    pipeline("sd").save_pretrained(tmp_path / "model")
    tiny_vae().save_pretrained(tmp_path / "tiny")
    made = Editor.from_pretrained(tmp_path / "model", vae=tmp_path / "tiny", policy="fast")
    session = made.open(picture("sd"), folder=tmp_path / "kept", **OPTIONS)
    expected = np.array(session.edit(painted(session.pixels)).image)
    session.close()
    with retouch.open(tmp_path / "kept") as again:
        assert again.settings["editor"]["vae"] == str(tmp_path / "tiny")
        again.undo()
        assert np.array_equal(again.edit(painted(again.pixels)).image, expected)
    (tmp_path / "tiny").rename(tmp_path / "moved")
    with pytest.raises(PipelineError, match="no autoencoder can be loaded from"):
        retouch.open(tmp_path / "kept")
    retouch.open(tmp_path / "kept", vae=tmp_path / "moved").close()
    with pytest.raises(ArchiveError, match="encoder"):
        retouch.open(tmp_path / "kept", editor=Editor(pipeline("sd"), policy="fast"))


# Bad input


def test_autoencoders_that_do_not_go_with_a_model(tmp_path):
    with pytest.raises(PipelineError, match="has no autoencoder that another one could take the place of"):
        Editor(pipeline("ddpm"), vae=tiny_vae())
    with pytest.raises(PipelineError, match="the autoencoder is a VQModel, none of AutoencoderKL"):
        Editor(pipeline("sd"), vae=diffusers.VQModel(norm_num_groups=8, block_out_channels=(8,)))
    wide = diffusers.AutoencoderTiny(latent_channels=16)
    with pytest.raises(PipelineError, match="have 16 channels and a position for 8 pixels, not 4 and 4"):
        Editor(pipeline("sd"), vae=wide)
    with pytest.raises(PipelineError, match="no autoencoder can be loaded from"):
        Editor(pipeline("sd"), vae=tmp_path / "nothing")
    pipeline("sd").unet.save_pretrained(tmp_path / "unet")
    with pytest.raises(PipelineError, match="is a UNet2DConditionModel, none of AutoencoderKL"):
        Editor(pipeline("sd"), vae=tmp_path / "unet")


def test_pickled_weights_are_refused(tmp_path):
    tiny_vae().save_pretrained(tmp_path / "tiny", safe_serialization=False)
    with pytest.raises(PipelineError, match="no autoencoder can be loaded from"):
        Editor(pipeline("sd"), vae=tmp_path / "tiny")


def test_factors_are_those_of_the_encoder():
    assert Autoencoder(diffusers.AutoencoderTiny()).factor == 8
    assert Autoencoder(asymmetric_vae()).factor == 4

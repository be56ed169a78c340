"""What is kept of a pipeline's networks and texts, and which model a pipeline gets."""

import pytest
from torch import Tensor

from editing.diffusion.test_session import opened
from pipelines import pipeline
from retouch import Policy
from retouch.editing.diffusion import session
from retouch.editing.diffusion.model import SIZES, Conditioning, Model
from retouch.editing.diffusion.unet import LatentUNetModel, LatentUNetModelXL, UNetModel, model_of
from retouch.frontend.signature import same_tensor

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

MODELS = {"ddpm": UNetModel, "sd": LatentUNetModel, "inpaint": LatentUNetModel, "sdxl": LatentUNetModelXL}


@pytest.mark.parametrize("name", MODELS)
def test_a_pipeline_gets_its_model(name):
    model = model_of(pipeline(name), Policy.named("fast"), "cpu")
    assert type(model) is MODELS[name]
    assert model.inpaints == (name == "inpaint")
    assert model.reads_text == (name != "ddpm")


def test_the_base_is_no_model():
    with pytest.raises(TypeError, match="abstract"):
        Model(pipeline("ddpm"), Policy.named("fast"), "cpu")
    assert not issubclass(LatentUNetModel, UNetModel)


def test_networks_of_the_last_sizes_are_kept(monkeypatch):
    model, made = model_of(pipeline("ddpm"), Policy.named("fast"), "cpu"), []
    monkeypatch.setattr(model, "compiled", lambda size, conditioning: made.append(size) or object())
    sizes = [(8, 8 * (i + 1)) for i in range(SIZES + 1)]
    first, *_ = [model.networks(size, Conditioning()) for size in sizes]
    assert model.networks(sizes[-1], Conditioning()) is model.networks(sizes[-1], Conditioning())
    assert model.networks(sizes[0], Conditioning()) is not first
    assert made == [*sizes, sizes[0]]
    assert len(model._compiled) == SIZES


def test_networks_are_compiled_alike_whatever_the_first_texts_are():
    examples = []
    for words in ("a b", "c d"):
        model = model_of(pipeline("sd"), Policy.named("fast"), "cpu")
        nets = model.networks((32, 32), model.condition(words, "", 3.0, (32, 32)))
        examples.append([x for net in (nets.denoiser, nets.decoder) for x in net.signature.leaves])
    assert all(map(same_tensor, *examples))
    assert all((x != x.flatten()[0]).any() for x in examples[0] if isinstance(x, Tensor) and x.dim() > 1)


def test_embeddings_of_the_last_texts_are_kept(monkeypatch):
    monkeypatch.setattr(session, "TEXTS", 2)
    found = opened("sd", "fast", steps=1, strength=1.0)
    for letters in ("a", "b", "c d", "e"):
        found._condition(letters, "")
    assert len(found._known) == 2
    assert found._condition("e", "") is found._condition("e", "")
    assert found._condition("a b", "") is found.conditioning

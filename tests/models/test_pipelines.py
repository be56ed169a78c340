"""The benchmark pipelines: each builds as diffusers would load it, with weights that let data flow."""

import pytest
import torch

from retouch.editing.diffusion.unet import model_of
from retouch.models import pipelines
from retouch.models.vae import autoencoder_kl
from retouch.plan.policy import Policy

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.mark.parametrize("name", pipelines.PIPELINES)
def test_tiny_pipeline_is_supported_at_its_size_and_the_same_every_time(name):
    pipeline = pipelines.get(name)
    one, other = pipeline.build(tiny=True), pipeline.build(tiny=True)
    model = model_of(one, Policy.named("fast"), "auto")
    model.check_size(pipeline.image_size(tiny=True))
    assert model.default_size in (pipeline.image_size(tiny=True), pipeline.image)
    assert model.reads_text == (pipeline.prompt is not None)
    for key, module in one.components.items():
        if isinstance(module, torch.nn.Module):
            assert not module.training
            for (weight, a), b in zip(module.named_parameters(), other.components[key].parameters(), strict=True):
                assert a.any(), f"{key}.{weight} is zero"
                assert torch.equal(a, b)


def test_prompt_is_read_letter_by_letter():
    pipeline = pipelines.get("sd15")
    model = model_of(pipeline.build(tiny=True), Policy.named("fast"), "auto")
    size = pipeline.image_size(tiny=True)
    words, others = (
        dict(model.condition(text, None, 7.5, size).inputs)["encoder_hidden_states"]
        for text in (pipeline.prompt, "a red door")
    )
    assert words.shape == (2, pipelines.TOKENS, 24)
    assert torch.equal(words[0], others[0])
    assert not torch.equal(words[1], others[1])
    ids = model.pipe.tokenizer(pipeline.prompt).input_ids
    assert len(set(ids)) > 10


def test_full_size_has_the_published_number_of_weights():
    from retouch.models import unet

    with torch.device("meta"):
        modules = [make(False) for make in (unet.sd15, autoencoder_kl, pipelines._text_encoder)]
    millions = [sum(weight.numel() for weight in module.parameters()) / 1e6 for module in modules]
    assert millions == pytest.approx([859.5, 83.7, 123.1], abs=0.05)


def test_scheduler_is_that_of_stable_diffusion():
    config = pipelines.get("sd15").build(tiny=True).scheduler.config
    assert (config.beta_schedule, config.steps_offset, config.clip_sample) == ("scaled_linear", 1, False)

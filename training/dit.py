"""Train a small Stable Diffusion 3 of emoji on a CPU, by flow matching on the latents of the emoji model.

Autoencoder and text encoder are those of that model, as they are. Commands in their order: encode, transformer, sheet,
export.
"""

import math
import random
import re
from pathlib import Path
from typing import Any

import emoji as small
import torch
import typer
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_show_locals=False)

WIDTH, HEADS, LAYERS = 192, 4, 4
BATCH = 32
STORED = "dit.safetensors"  # latents of the pictures that are learnt
NAMES = Path(__file__).parent / "drawn-dit.txt"  # their names, of those of drawn.txt
VARIED = 0.0  # pictures as they are only: learnt sooner
PADDING = 256  # rows of zeros that the pipeline has in the place of T5's
SHIFT = 2.0  # of the levels of noise, towards those where it is decided what is drawn
GATE = 0.3  # of every branch before training


# Network


class PaddedAttention:
    """Joint attention of SD 3 in which the last row of the text stands for `PADDING` rows that are alike.

    Rows of padding have no place, so they stay alike through all blocks: one of them, counted as often as there are,
    is the same network for half of the arithmetic.
    """

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: None = None
    ) -> tuple[Tensor, Tensor]:
        count = hidden_states.shape[1]

        def heads(x: Tensor, y: Tensor, norm_x: nn.Module | None, norm_y: nn.Module | None) -> Tensor:
            x, y = (each.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for each in (x, y))
            return torch.cat([norm_x(x) if norm_x else x, norm_y(y) if norm_y else y], dim=2)

        picture, text = hidden_states, encoder_hidden_states
        query = heads(attn.to_q(picture), attn.add_q_proj(text), attn.norm_q, attn.norm_added_q)
        key = heads(attn.to_k(picture), attn.add_k_proj(text), attn.norm_k, attn.norm_added_k)
        value = heads(attn.to_v(picture), attn.add_v_proj(text), None, None)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        times = torch.zeros(scores.shape[-1], dtype=scores.dtype)
        times[-1] = math.log(PADDING)
        found = ((scores + times).softmax(-1).to(value.dtype) @ value).transpose(1, 2).flatten(2)
        picture, text = found[:, :count], found[:, count:]
        return attn.to_out[0](picture), text if attn.context_pre_only else attn.to_add_out(text)


def new_transformer(text_width: int) -> SD3Transformer2DModel:
    """The transformer of Stable Diffusion 3 with the norms of 3.5, small; blocks begin open by `GATE`, without shifts
    and scales.
    """
    model = SD3Transformer2DModel(
        sample_size=small.LATENT,
        in_channels=4,
        out_channels=4,
        num_layers=LAYERS,
        attention_head_dim=WIDTH // HEADS,
        num_attention_heads=HEADS,
        joint_attention_dim=2 * text_width,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=2 * text_width,
        pos_embed_max_size=small.LATENT // 2,
        qk_norm="rms_norm",
    )
    for name, module in model.named_modules():
        if re.search(r"norm\w*\.linear$", name):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
            if module.out_features == 6 * WIDTH:
                module.bias.data[2 * WIDTH : 3 * WIDTH] = GATE
                module.bias.data[5 * WIDTH :] = GATE
    nn.init.zeros_(model.proj_out.weight)
    nn.init.zeros_(model.proj_out.bias)
    return model


def text_encoder_of(base: StableDiffusionPipeline) -> CLIPTextModelWithProjection:
    """The text encoder of the emoji model; its projection, which that lacks, changes nothing."""
    encoder = CLIPTextModelWithProjection(CLIPTextConfig.from_dict(base.text_encoder.config.to_dict()))
    encoder.text_model.load_state_dict(base.text_encoder.state_dict())
    nn.init.eye_(encoder.text_projection.weight)
    return encoder


def opened(base: Path) -> StableDiffusion3Pipeline:
    """The untrained pipeline, without T5."""
    pipe = StableDiffusionPipeline.from_pretrained(base, dtype=torch.float32)
    encoder = text_encoder_of(pipe).requires_grad_(False).eval()
    found = StableDiffusion3Pipeline(
        transformer=new_transformer(encoder.config.projection_dim),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=pipe.vae,
        text_encoder=encoder,
        tokenizer=pipe.tokenizer,
        text_encoder_2=encoder,
        tokenizer_2=pipe.tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    found.vae.register_to_config(shift_factor=0.0)
    found.set_progress_bar_config(disable=True)
    return found


# Training


class Words:
    """What the transformer reads of captions, each encoded once."""

    def __init__(self, pipe: StableDiffusion3Pipeline) -> None:
        self.pipe = pipe
        self.known: dict[str, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def of(self, text: str) -> tuple[Tensor, Tensor]:
        """Rows, with one of padding, and vector of a caption."""
        if text not in self.known:
            rows, _, vector, _ = self.pipe.encode_prompt(
                text, None, None, do_classifier_free_guidance=False, max_sequence_length=1
            )
            self.known[text] = rows[0], vector[0]
        return self.known[text]

    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        rows, vectors = zip(*map(self.of, captions), strict=True)
        return torch.stack(rows), torch.stack(vectors)


def levels(batch: int) -> Tensor:
    """Levels of noise of a batch in (0, 1): spread evenly over a logit-normal distribution, shifted as when drawing
    (Esser et al., "Scaling Rectified Flow Transformers", arXiv 2403.03206, sections 3.1 and 5.3.2).
    """
    spread = (torch.rand(()) + torch.arange(batch) / batch) % 1
    level = torch.special.ndtri(spread.clamp(1e-4, 1 - 1e-4)).sigmoid()
    return SHIFT * level / (1 + (SHIFT - 1) * level)


def transformer_stage(work: Path, pipe: StableDiffusion3Pipeline, compiled: bool = False) -> small.Stage:
    model, words = pipe.transformer, Words(pipe)
    latents = small.Latents.load(work, STORED).only(NAMES.read_text().splitlines())
    if compiled:
        for block in model.transformer_blocks:  # one by one: all but the last are compiled once
            block.compile(dynamic=False)

    def error(clean: Tensor, captions: list[str], level: Tensor, noise: Tensor) -> Tensor:
        rows, vectors = words(captions)
        share = level[:, None, None, None]
        with small.bfloat16():
            flow = model((1 - share) * clean + share * noise, rows, vectors, 1000 * level, return_dict=False)[0]
        return (flow.float() - (noise - clean)).square().mean()

    def loss(rng: random.Random) -> Tensor:
        clean, captions = latents.sample(BATCH, rng, VARIED)
        return error(clean, captions, levels(BATCH), torch.randn_like(clean))

    def validate() -> float:
        clean, captions = latents.sample(BATCH, random.Random(0), VARIED)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            return error(clean, captions, (torch.arange(BATCH) + 0.5) / BATCH, noise).item()

    matrices = [
        weight
        for name, weight in model.named_parameters()
        if weight.ndim == 2 and not re.search("embed|norm|proj_out", name)
    ]
    return small.Stage("dit", work, model, loss, validate, rate=1e-3, decay=0.998, matrices=matrices)


@app.command()
def encode(work: small.Work = small.DEFAULT_WORK, base: small.Base = small.DEFAULT_BASE) -> None:
    """Keep the latents of every picture that is learnt, as it is and slightly varied."""
    small.keep_drawn(work / STORED, base, small.SIZE)


@app.command()
def transformer(
    hours: float = 1.5,
    compiled: small.Compiled = False,
    work: small.Work = small.DEFAULT_WORK,
    base: small.Base = small.DEFAULT_BASE,
) -> None:
    """Train the transformer until HOURS are used up over all runs."""
    pipe = opened(base)
    pipe.transformer.set_attn_processor(PaddedAttention())
    transformer_stage(work, pipe, compiled).train(hours)


# Pictures and export


def pipeline(work: Path, base: Path) -> StableDiffusion3Pipeline:
    """The trained pipeline, with averaged weights."""
    pipe = opened(base)
    transformer_stage(work, pipe).averaged()
    return pipe


@app.command()
def sheet(
    steps: int = 28,
    guidance: float = 3.0,
    seed: int = 0,
    count: int = 32,
    work: small.Work = small.DEFAULT_WORK,
    base: small.Base = small.DEFAULT_BASE,
) -> None:
    """Write emoji-dit.png: COUNT names drawn by lot."""
    options = {"num_inference_steps": steps, "guidance_scale": guidance}
    names = NAMES.read_text().splitlines()
    small.by_lot(pipeline(work, base), names, count, seed, **options).save(work / "emoji-dit.png")


@app.command()
def export(folder: Path, work: small.Work = small.DEFAULT_WORK, base: small.Base = small.DEFAULT_BASE) -> None:
    """Write the trained model to FOLDER in half precision, for `StableDiffusion3Pipeline.from_pretrained`."""
    small.write(pipeline(work, base), folder)


if __name__ == "__main__":
    torch.set_num_threads(2)
    app()

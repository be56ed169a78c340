"""Grow the emoji model to 256x256, a level more around the U-Net as it is, and distil it to four steps.

Commands in their order: encode, unet, distil, sheet, export.
"""

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import emoji as small
import torch
import torch.nn.functional as F
import typer
from diffusers import DDIMScheduler, LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_show_locals=False)

SIZE = 256  # pixels of a picture
LATENT = 64
BATCH = 8
STORED = "large.safetensors"  # latents of the pictures that are learnt
MATCHING = 400  # steps that make the new level feed the old ones what they know
SOLVER = 50  # steps of the solver that distillation follows
GUIDANCE = (2.0, 6.0)  # scales that the student learns
EMBEDDED = 128  # numbers that stand for a scale
TIMESTEP_SCALING = 10.0  # as in LCMScheduler
HUBER = 1e-3


# Data


@app.command()
def encode(work: small.Work = small.DEFAULT_WORK, base: small.Base = small.DEFAULT_BASE) -> None:
    """Keep the latents of every picture that is learnt, as it is and slightly varied."""
    small.keep_drawn(work / STORED, base, SIZE)


# Growing


def shifted_scheduler() -> DDIMScheduler:
    """The emoji model's schedule at a fourth of its ratio of signal to noise.

    The mean of 2x2 positions then has the ratio that the emoji model knows at that step (Hoogeboom et al., "Simple
    diffusion", arXiv 2301.11093, section 3.1).
    """
    share = small.new_scheduler().alphas_cumprod.double()
    share = share / (4 - 3 * share)
    before = torch.cat([torch.ones(1).double(), share[:-1]])
    return DDIMScheduler(
        trained_betas=(1 - share / before).tolist(),
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def grown(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The U-Net with one level more around it, for latents of twice the size."""
    old = dict(unet.config)
    large = UNet2DConditionModel.from_config(
        old,
        sample_size=LATENT,
        block_out_channels=(old["block_out_channels"][0], *old["block_out_channels"]),
        down_block_types=("DownBlock2D", *old["down_block_types"]),
        up_block_types=(*old["up_block_types"], "UpBlock2D"),
    )
    inner = {
        re.sub(r"(?<=^down_blocks\.)\d+", lambda found: str(int(found[0]) + 1), name): value
        for name, value in unet.state_dict().items()
        if not name.startswith(("conv_in", "conv_out"))
    }
    large.load_state_dict(inner, strict=False)
    nn.init.dirac_(large.up_blocks[-2].upsamplers[0].conv.weight)
    nn.init.zeros_(large.conv_out.weight)
    return large.to(memory_format=torch.channels_last)


def matched(large: UNet2DConditionModel, unet: UNet2DConditionModel, latents: small.Latents, words: Tensor) -> None:
    """Train the level that was added to pass on what the first layer of the old U-Net makes of the smaller latent."""
    known, rng = shifted_scheduler().alphas_cumprod, random.Random(0)
    outer = [*large.conv_in.parameters(), *large.down_blocks[0].parameters()]
    optimizer = torch.optim.AdamW(outer, lr=2e-3)
    for step in range(MATCHING):
        clean, _ = latents.sample(BATCH, rng)
        steps = small.spread_steps(BATCH)
        a, b = known[steps][:, None, None, None].sqrt(), (1 - known[steps][:, None, None, None]).sqrt()
        x = (a * clean + b * torch.randn_like(clean)).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            target = unet.conv_in(F.avg_pool2d(x, 2) / (a.square() + b.square() / 4).sqrt())
            moment = unet.time_embedding(unet.time_proj(steps)) + unet.add_embedding(words.expand(BATCH, -1, -1))
        found, _ = large.down_blocks[0](large.conv_in(x), moment)
        loss = (found - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"matching, step {step}: {loss.item():.4f} of {target.square().mean().item():.4f}", flush=True)


def opened(base: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(base, dtype=torch.float32)
    pipe.text_encoder.requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def matrices_of(model: nn.Module) -> list[nn.Parameter]:
    """The weights that Muon trains."""
    ends = "embed|conv_in|conv_out"
    return [weight for name, weight in model.named_parameters() if weight.ndim > 1 and not re.search(ends, name)]


def unet_stage(work: Path, pipe: StableDiffusionPipeline, compiled: bool = False) -> small.Stage:
    unet, latents = grown(pipe.unet), small.Latents.load(work, STORED)
    unet.set_attn_processor(AttnProcessor())
    if not (work / "large.pt").exists():
        with torch.no_grad():
            ids = pipe.tokenizer("", padding="max_length", return_tensors="pt").input_ids
            words = pipe.text_encoder(ids).last_hidden_state
        matched(unet, pipe.unet, latents, words)
    forward = torch.compile(unet, dynamic=False) if compiled else unet
    noising = small.Noising(shifted_scheduler(), pipe.tokenizer, pipe.text_encoder)

    def loss(rng: random.Random) -> Tensor:
        clean, texts = latents.sample(BATCH, rng)
        return noising.error(clean, texts, small.spread_steps(BATCH), torch.randn_like(clean), forward)

    def validate() -> float:
        clean, texts = latents.first(12)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            return noising.error(clean, texts, torch.arange(12) * 1000 // 12, noise, unet).item()

    return small.Stage("large", work, unet, loss, validate, rate=4e-4, decay=0.998, matrices=matrices_of(unet))


@app.command()
def unet(
    hours: float = 2,
    compiled: small.Compiled = False,
    work: small.Work = small.DEFAULT_WORK,
    base: small.Base = small.DEFAULT_BASE,
) -> None:
    """Train the larger U-Net until HOURS are used up over all runs."""
    unet_stage(work, opened(base), compiled).train(hours)


# Distillation to a few steps


def guided(velocity: Tensor, scale: Tensor) -> Tensor:
    """A batch of unconditional and conditional predictions, guided by `scale` `[N]`."""
    without, with_words = velocity.float().chunk(2)
    return without + scale[:, None, None, None] * (with_words - without)


@dataclass
class Consistency:
    """Latent consistency distillation of a v-prediction model (Luo et al., arXiv 2310.04378, section 4).

    The solver is DDIM on `SOLVER` time steps; the student reads the scale of guidance, less one, as LCM pipelines do.
    """

    noising: small.Noising
    teacher: nn.Module
    student: UNet2DConditionModel
    target: UNet2DConditionModel

    def shares(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise at time steps; -1 is the clean picture."""
        known = torch.cat([self.noising.scheduler.alphas_cumprod, torch.ones(1)])
        share = known[steps][:, None, None, None]
        return share.sqrt(), (1 - share).sqrt()

    def clean(self, network: nn.Module, x: Tensor, steps: Tensor, words: Tensor, scale: Tensor) -> Tensor:
        """The consistency function: `x` itself at step 0, the clean picture elsewhere."""
        embedding = embedded(scale - 1, self.student.config.time_cond_proj_dim)
        with small.bfloat16():
            velocity = network(x, steps, words, timestep_cond=embedding).sample.float()
        a, b = self.shares(steps)
        scaled = (TIMESTEP_SCALING * steps)[:, None, None, None]
        skip, out = 0.25 / (scaled**2 + 0.25), scaled / (scaled**2 + 0.25).sqrt()
        return skip * x + out * (a * x - b * velocity)

    def loss(self, clean: Tensor, captions: list[str]) -> Tensor:
        """Between the student's pictures at both ends of a step of the solver."""
        count = len(clean)
        places = ((torch.rand(()) + torch.arange(count) / count) % 1 * SOLVER).long()
        steps, before = (places + 1) * (1000 // SOLVER) - 1, places * (1000 // SOLVER) - 1
        scale = torch.empty(count).uniform_(*GUIDANCE)
        a, b = self.shares(steps)
        x = (a * clean + b * torch.randn_like(clean)).contiguous(memory_format=torch.channels_last)
        tokens = self.noising.tokenizer(
            [""] * count + captions, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            with small.bfloat16():
                words = self.noising.text_encoder(tokens).last_hidden_state
                velocity = guided(self.teacher(torch.cat([x, x]), torch.cat([steps, steps]), words).sample, scale)
            picture, noise = a * x - b * velocity, b * x + a * velocity
            c, d = self.shares(before)
            earlier = c * picture + d * noise
            truth = self.clean(self.target, earlier, before.clamp(min=0), words[count:], scale)
            truth = torch.where((before < 0)[:, None, None, None], earlier, truth)
        found = self.clean(self.student, x, steps, words[count:], scale)
        return ((found - truth).square() + HUBER**2).sqrt().mean() - HUBER


def embedded(scale: Tensor, dim: int) -> Tensor:
    """Guidance scales as diffusers' LCM pipelines embed them, `[N, dim]`."""
    return StableDiffusionPipeline.get_guidance_scale_embedding(None, scale, dim)


def student_of(teacher: UNet2DConditionModel) -> UNet2DConditionModel:
    """The teacher's copy that reads the scale of guidance, ignoring it at first."""
    student = UNet2DConditionModel.from_config(dict(teacher.config), time_cond_proj_dim=EMBEDDED)
    student.load_state_dict(teacher.state_dict(), strict=False)
    nn.init.zeros_(student.time_embedding.cond_proj.weight)
    student.set_attn_processor(AttnProcessor())
    return student.to(memory_format=torch.channels_last)


def distil_stage(work: Path, teacher: StableDiffusionPipeline, compiled: bool = False) -> small.Stage:
    unet, text_encoder = teacher.unet.requires_grad_(False), teacher.text_encoder
    student, target = student_of(unet), student_of(unet).requires_grad_(False)
    noising = small.Noising(shifted_scheduler(), teacher.tokenizer, text_encoder)
    networks = [torch.compile(net, dynamic=False) if compiled else net for net in (unet, student, target)]
    consistency, latents = Consistency(noising, *networks), small.Latents.load(work, STORED)

    def loss(rng: random.Random) -> Tensor:
        return consistency.loss(*latents.sample(BATCH, rng))

    def validate() -> float:
        torch.manual_seed(0)
        with torch.inference_mode():
            return consistency.loss(*latents.first(BATCH)).item()

    stage = small.Stage(
        "distilled", work, student, loss, validate, rate=1e-4, decay=0.97, matrices=matrices_of(student)
    )
    for name, parameter in target.named_parameters():
        parameter.data = stage.average[name]  # the running average is what the student is held against
    return stage


@app.command()
def distil(
    hours: float = 1,
    compiled: small.Compiled = False,
    work: small.Work = small.DEFAULT_WORK,
    base: small.Base = small.DEFAULT_BASE,
) -> None:
    """Distil the larger model to a few steps until HOURS are used up over all runs."""
    distil_stage(work, pipeline(work, base), compiled).train(hours)


# Pictures and export


def pipeline(work: Path, base: Path) -> StableDiffusionPipeline:
    """The larger model, with averaged weights."""
    pipe = opened(base)
    pipe.unet = unet_stage(work, pipe).averaged()
    pipe.scheduler = shifted_scheduler()
    return pipe


def fast_pipeline(work: Path, base: Path) -> StableDiffusionPipeline:
    """The distilled model, with averaged weights and the scheduler that it is made for."""
    pipe = pipeline(work, base)
    pipe.unet = distil_stage(work, pipe).averaged()
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config, original_inference_steps=SOLVER)
    return pipe


MAKERS = {"emoji-256": pipeline, "emoji-256-lcm": fast_pipeline}
Which = Annotated[str, typer.Argument(help="emoji-256 or emoji-256-lcm (distilled).")]


@app.command()
def sheet(
    which: Which,
    steps: int = 20,
    guidance: float = 3.0,
    seed: int = 0,
    count: int = 32,
    work: small.Work = small.DEFAULT_WORK,
    base: small.Base = small.DEFAULT_BASE,
) -> None:
    """Write WHICH.png: COUNT names drawn by lot."""
    options = {"num_inference_steps": steps, "guidance_scale": guidance}
    names = small.DRAWN.read_text().splitlines()
    small.by_lot(MAKERS[which](work, base), names, count, seed, **options).save(work / f"{which}.png")


@app.command()
def export(
    which: Which, folder: Path, work: small.Work = small.DEFAULT_WORK, base: small.Base = small.DEFAULT_BASE
) -> None:
    """Write a model to FOLDER in half precision, for `StableDiffusionPipeline.from_pretrained`."""
    small.write(MAKERS[which](work, base), folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    app()

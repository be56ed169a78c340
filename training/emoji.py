"""Train a small Stable Diffusion of emoji on a CPU: data, autoencoder, latents, unet, sheet, export."""

import io
import json
import math
import os
import random
import re
import signal
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image, ImageDraw, ImageFont
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_show_locals=False)

SIZE = 128  # pixels of a picture
RENDERED = 256  # pixels of the stored renderings, from which crops are taken
LATENT = 32
TOKENS = 16
POSTERIOR_STD = 0.1  # fixed noise of the posterior, before the latents are normalised
VARIANTS = 8  # latents kept of every picture
DRAWN = Path(__file__).parent / "drawn.txt"  # names of the pictures that the U-Net learns
CATEGORIES = ("Smileys & Emotion", "Animals & Nature", "Food & Drink")  # those of the names above
HARD = 0.7  # below 1, the U-Net trains more on noisy pictures, where it learns what to draw

Work = Annotated[Path, typer.Option(help="Folder of the data, checkpoints and logs.")]
DEFAULT_WORK = Path(__file__).parent / "run"
Base = Annotated[Path, typer.Option(help="Folder of the emoji model that is built on.")]
DEFAULT_BASE = Path(__file__).parents[1] / "src" / "retouch" / "models" / "emoji"
Compiled = Annotated[bool, typer.Option(help="With torch.compile: minutes to start, a third faster.")]


# Data


@dataclass
class Emoji:
    """Renderings on white, uint8 [N, 3, 256, 256], with their names and categories."""

    images: Tensor
    names: list[str]
    categories: list[str]

    @classmethod
    def load(cls, work: Path) -> "Emoji":
        return replace(cls.named(work), images=load_file(work / "images.safetensors")["images"])

    @classmethod
    def named(cls, work: Path) -> "Emoji":
        """Without the pictures."""
        captions = json.loads((work / "captions.json").read_text())
        return cls(torch.empty(0), [name for name, _ in captions], [category for _, category in captions])

    def drawn(self) -> list[int]:
        """Indices of the pictures that the U-Net learns."""
        drawn = set(DRAWN.read_text().splitlines())
        return [i for i in self.split(held_out=False) if self.names[i] in drawn]

    def split(self, held_out: bool) -> list[int]:
        """Indices of one side of the split: a twentieth of the names, by checksum, is held out."""
        return [i for i, name in enumerate(self.names) if (zlib.crc32(name.encode()) % 20 == 0) == held_out]

    def mirrors(self, index: int) -> bool:
        """Whether the mirror image still shows what the name says."""
        words = set(self.names[index].split())
        return not words & {"left", "right", "leftwards", "rightwards", "oclock", "thirty", "letter", "button"}

    def crops(self, indices: list[int], size: int, spread: float, rng: random.Random, whole: int = SIZE) -> Tensor:
        """Pictures of `whole` pixels in [-1, 1], each mirrored, scaled and moved at random; `spread` 0 leaves them as
        they are.

        A size below `whole` gives a part of the picture at the same scale.
        """
        theta = torch.zeros(len(indices), 2, 3)
        for row, index in enumerate(indices):
            scale = (1 + spread * rng.uniform(-1.5, 1)) * size / whole
            room = 2 * spread * 0.4 + (1 - size / whole) * 0.9
            mirror = -1 if spread and self.mirrors(index) and rng.random() < 0.5 else 1
            theta[row] = torch.tensor(
                [[mirror * scale, 0, rng.uniform(-room, room)], [0, scale, rng.uniform(-room, room)]]
            )
        ink = 1 - self.images[indices].float() / 255  # zero, like the padding, is white
        grid = F.affine_grid(theta, [len(indices), 3, size, size], align_corners=False)
        return 1 - 2 * F.grid_sample(ink, grid, align_corners=False).clamp(0, 1)


def wanted(name: str, category: str | None) -> bool:
    """Leave out symbols, flags, skin tones and near-duplicate people."""
    if category in (None, "Symbols", "Flags") or "skin-tone" in name or name.endswith("-facing-right"):
        return False
    return category != "People & Body" or not name.startswith(("man-", "family-", "couple-with-heart-", "kiss-"))


def painted(pictures: Tensor, rng: random.Random, share: float = 0.3) -> Tensor:
    """Some of the pictures with plain strokes over them, as a user would paint."""
    size = pictures.shape[-1]
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    for row in range(len(pictures)):
        for _ in range(rng.randint(1, 4) if rng.random() < share else 0):
            ax, ay, bx, by = (rng.uniform(0, size) for _ in range(4))
            along = ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2 + 1e-6)
            along = along.clamp(0, rng.choice((0.0, 1.0)))
            distance = torch.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay))
            cover = (rng.uniform(1, 14) - distance + 0.5).clamp(0, 1)
            colour = torch.tensor([rng.uniform(-1, 1) for _ in range(3)])[:, None, None]
            pictures[row] += cover * (colour - pictures[row])
    return pictures


def tokenizer_of(captions: list[str]) -> CLIPTokenizer:
    """A byte-pair vocabulary in which nearly every word of the captions is one token."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    trained = CLIPTokenizer(vocab={start: 0, end: 1}).train_new_from_iterator([captions], 2048)
    model = json.loads(trained.backend_tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=TOKENS)


def packed(archive: Path, name: str) -> dict[str, Any]:
    """A JSON file of the icons' package."""
    with tarfile.open(archive) as tar:
        member = tar.extractfile(f"package/{name}")
        assert member is not None
        return json.load(member)


def rendered(archive: Path, names: list[str], background: str) -> Tensor:
    """Icons on a background, uint8 [N, 3, 256, 256]."""
    import resvg_py

    icons, images = packed(archive, "icons.json")["icons"], []
    for name in names:
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 128 128">{icons[name]["body"]}</svg>'
        png = resvg_py.svg_to_bytes(svg_string=svg, width=RENDERED, height=RENDERED, background=background)
        images.append(np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB")))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


@app.command()
def data(archive: Path, work: Work = DEFAULT_WORK) -> None:
    """Render the icons of ARCHIVE, what `npm pack @iconify-json/noto` leaves, and build the vocabulary."""
    by_category = packed(archive, "metadata.json")["categories"]
    category_of = {name: category for category, names in by_category.items() for name in names}
    names = [name for name in sorted(packed(archive, "icons.json")["icons"]) if wanted(name, category_of.get(name))]
    captions = [(name.replace("-", " "), category_of[name]) for name in names]
    work.mkdir(parents=True, exist_ok=True)
    save_file({"images": rendered(archive, names, "#ffffff")}, work / "images.safetensors")
    (work / "captions.json").write_text(json.dumps(captions, indent=0))
    tokenizer_of([f"{name}, {category.lower()}" for name, category in captions]).save_pretrained(work / "tokenizer")
    emoji = Emoji.load(work)
    print(f"{len(captions)} pictures, {len(emoji.split(held_out=True))} held out")


# Training


@dataclass
class Stage:
    """What is trained, on which loss, and where it stands.

    matrices: weights that Muon trains, with twice the rate at which AdamW trains the others. Convolutions count
        as matrices with a row for every output channel.
    """

    name: str
    work: Path
    model: nn.Module
    loss: Callable[[random.Random], Tensor]
    validate: Callable[[], float]
    rate: float
    decay: float
    matrices: list[nn.Parameter] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0
    average: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        chosen = {id(matrix) for matrix in self.matrices}
        others = [parameter for parameter in self.model.parameters() if id(parameter) not in chosen]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=self.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        ]
        self.views: list[nn.Parameter] = []
        if self.matrices:
            self.views = [nn.Parameter(as_matrix(parameter.detach())) for parameter in self.matrices]
            self.optimizers.append(torch.optim.Muon(self.views, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"))
        if self.path.exists():
            self.restore()
        else:
            self.average = {name: value.detach().clone() for name, value in self.model.named_parameters()}

    @property
    def path(self) -> Path:
        return self.work / f"{self.name}.pt"

    def restore(self) -> None:
        state = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.average, self.step, self.seconds = state["average"], state["step"], state["seconds"]

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average,
            "step": self.step,
            "seconds": self.seconds,
        }
        partial = self.path.with_suffix(".tmp")
        torch.save(state, partial)
        os.replace(partial, self.path)

    def advance(self, rng: random.Random, budget: float) -> float:
        """One step of the optimizer and of the running average; the rate falls in the last fifth of the budget."""
        factor = min(1, (self.step + 1) / 200, max(0.02, (1 - self.seconds / budget) * 5))
        for optimizer, rate in zip(self.optimizers, (self.rate, 2 * self.rate), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        loss = self.loss(rng)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for parameter, view in zip(self.matrices, self.views, strict=True):
            view.grad = None if parameter.grad is None else as_matrix(parameter.grad)
        for optimizer in self.optimizers:
            optimizer.step()
        self.model.zero_grad()
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        parameters = [value.detach() for value in self.model.parameters()]
        torch._foreach_lerp_(list(self.average.values()), parameters, 1 - decay)
        return loss.item()

    def averaged(self) -> nn.Module:
        """The model itself, now holding the averaged weights."""
        self.model.load_state_dict({**self.model.state_dict(), **self.average})
        return self.model.eval()

    def train(self, hours: float) -> None:
        """Train until `hours` of training, counted over all runs, are used up or a signal asks to stop."""
        budget, stop = hours * 3600, False

        def request(number: int, frame: FrameType | None) -> None:
            nonlocal stop
            stop = True

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, request)
        rng = random.Random(f"{self.name} {self.step}")
        torch.manual_seed(self.step)
        self.model.train()
        saved, losses = self.seconds, []
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
        )
        with Progress(*columns) as progress, (self.work / f"{self.name}.jsonl").open("a", buffering=1) as log:
            task = progress.add_task(self.name, total=budget, completed=self.seconds, loss="")
            while not stop and self.seconds < budget:
                began = time.monotonic()
                losses.append(self.advance(rng, budget))
                self.seconds += min(time.monotonic() - began, 30)  # a paused process is not training
                progress.update(task, completed=self.seconds, loss=f"step {self.step} loss {losses[-1]:.4f}")
                if self.step % 50 == 0:
                    line = {"step": self.step, "seconds": round(self.seconds), "loss": sum(losses) / len(losses)}
                    if self.step % 1000 == 0:
                        line["held_out"] = self.validate()
                    log.write(json.dumps(line) + "\n")
                    losses.clear()
                if self.seconds - saved > 240:
                    self.save()
                    saved = self.seconds
        self.save()
        if stop:
            raise typer.Exit(130)


def as_matrix(weight: Tensor) -> Tensor:
    """A weight with a row for every output channel; of a channels-last convolution this is a view."""
    return weight.permute(0, 2, 3, 1).flatten(1) if weight.ndim == 4 else weight


def bfloat16() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def groups(items: list[int], size: int) -> Iterator[list[int]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


# Autoencoder


def new_autoencoder() -> AutoencoderKL:
    """The autoencoder of Stable Diffusion, with three levels instead of four and narrower."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=SIZE,
        scaling_factor=1.0,
    ).to(memory_format=torch.channels_last)


def differences(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute error of the pixels, of their edges, and of both at half the size."""
    error = x - y
    total = error.abs().mean()
    for scale in (1, 2):
        small = F.avg_pool2d(error, scale) if scale > 1 else error
        total = total + small.abs().mean() * (scale > 1)
        total = total + small.diff(dim=-1).abs().mean() + small.diff(dim=-2).abs().mean()
    return total


def autoencoder_stage(work: Path, emoji: Emoji) -> Stage:
    model = new_autoencoder()
    train, held_out = emoji.split(held_out=False), emoji.split(held_out=True)
    logvar = 2 * math.log(POSTERIOR_STD)

    def reconstruct(pictures: Tensor) -> tuple[Tensor, Any]:
        with bfloat16():
            posterior = model.encode(pictures.contiguous(memory_format=torch.channels_last)).latent_dist
            noisy = posterior.mean + POSTERIOR_STD * torch.randn_like(posterior.mean)
            return model.decode(noisy).sample.float(), posterior

    def loss(rng: random.Random) -> Tensor:
        size, batch = (64, 16) if rng.random() < 0.6 else (SIZE, 4)
        pictures = painted(emoji.crops(rng.sample(train, batch), size, 0.12, rng), rng)
        again, posterior = reconstruct(pictures)
        spread = (posterior.logvar.float() - logvar).square().mean()
        return differences(again, pictures) + 1e-3 * posterior.mean.float().square().mean() + 1e-3 * spread

    def validate() -> float:
        pictures = emoji.crops(held_out[:32], SIZE, 0, random.Random(0))
        with torch.inference_mode():
            return psnr(reconstruct(pictures)[0].clamp(-1, 1), pictures)

    return Stage("autoencoder", work, model, loss, validate, rate=8e-4, decay=0.998)


def psnr(x: Tensor, y: Tensor) -> float:
    return -10 * math.log10(float((x - y).square().mean()) / 4)


@app.command()
def autoencoder(hours: float = 0.75, work: Work = DEFAULT_WORK) -> None:
    """Train the autoencoder until HOURS are used up over all runs."""
    autoencoder_stage(work, Emoji.load(work)).train(hours)


def normalise(vae: AutoencoderKL, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Fold the mean and deviation of the latents' channels into the 1x1 convolutions around them."""
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    with torch.no_grad():
        encode, decode = vae.quant_conv, vae.post_quant_conv
        decode.bias += decode.weight[:, :, 0, 0] @ mean
        decode.weight *= std[:, None, None]
        encode.bias[:4] -= mean
        encode.bias[:4] /= std
        encode.weight[:4] /= std[:, None, None, None]
        encode.bias[4:] -= 2 * std.log()
    return mean, std


@app.command()
def latents(work: Work = DEFAULT_WORK) -> None:
    """Encode every picture, as it is and slightly varied, with the averaged autoencoder, and keep that in vae/."""
    emoji = Emoji.load(work)
    vae = autoencoder_stage(work, emoji).averaged()
    assert isinstance(vae, AutoencoderKL)
    variants = encoded(vae, emoji, list(range(len(emoji.names))))
    mean, std = normalise(vae, variants[0])
    print("mean", mean.tolist(), "std", std.tolist())
    vae.to(memory_format=torch.contiguous_format).save_pretrained(work / "vae")
    keep((variants - mean[:, None, None]) / std[:, None, None], work / "latents.safetensors")


def encoded(vae: AutoencoderKL, emoji: Emoji, chosen: list[int], size: int = SIZE) -> Tensor:
    """Latents of `VARIANTS` versions of the chosen pictures, [V, N, C, H, W]; the first is the picture as it is."""
    rng = random.Random(0)
    variants = []
    with torch.inference_mode(), bfloat16():
        for variant in range(VARIANTS):
            parts = []
            for some in groups(chosen, 8):
                pictures = emoji.crops(some, size, 0.08 if variant else 0, rng, whole=size)
                pictures = pictures.contiguous(memory_format=torch.channels_last)
                parts.append(vae.encode(pictures).latent_dist.mean.float())
            variants.append(torch.cat(parts))
            print(f"variant {variant + 1} of {VARIANTS}", flush=True)
    return torch.stack(variants)


def keep(latents: Tensor, file: Path) -> None:
    """Store latents; `latents.safetensors` is the last thing that the chain of stages looks for before the U-Net."""
    save_file({"latents": latents.bfloat16().contiguous()}, file)


def keep_drawn(file: Path, base: Path, size: int) -> None:
    """Store latents of the pictures that are learnt, at `size` pixels, as the autoencoder of a model makes them."""
    emoji = Emoji.load(file.parent)
    vae = AutoencoderKL.from_pretrained(base / "vae", torch_dtype=torch.float32).to(memory_format=torch.channels_last)
    keep(encoded(vae, emoji, emoji.drawn(), size), file)


@dataclass(frozen=True)
class Latents:
    """What `keep_drawn` stored, with the names and categories of the pictures."""

    latents: Tensor
    names: list[str]
    categories: list[str]

    @classmethod
    def load(cls, work: Path, name: str) -> "Latents":
        known = Emoji.named(work)
        chosen = known.drawn()
        latents = load_file(work / name)["latents"]
        return cls(latents, [known.names[i] for i in chosen], [known.categories[i] for i in chosen])

    def only(self, names: list[str]) -> "Latents":
        """Those of some names."""
        chosen = [i for i, name in enumerate(self.names) if name in names]
        return Latents(self.latents[:, chosen], *([each[i] for i in chosen] for each in (self.names, self.categories)))

    def sample(self, count: int, rng: random.Random, varied: float = 0.4) -> tuple[Tensor, list[str]]:
        """Latents of that many, with captions; a share of them `varied`."""
        each = list(range(len(self.names)))
        chosen = rng.sample(each * -(-count // len(each)), count)
        variants = [rng.randrange(len(self.latents)) if rng.random() < varied else 0 for _ in chosen]
        texts = [caption(self.names[i], self.categories[i], rng) for i in chosen]
        return self.latents[variants, chosen].float(), texts

    def first(self, count: int) -> tuple[Tensor, list[str]]:
        """The latents and names of the first pictures."""
        return self.latents[0, :count].float(), self.names[:count]


# U-Net


def new_unet() -> UNet2DConditionModel:
    """The U-Net of Stable Diffusion 1, with three levels instead of four and narrower."""
    return UNet2DConditionModel(
        sample_size=LATENT,
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        addition_embed_type="text",  # the words also reach every block beside the time step: learnt much sooner
        addition_embed_type_num_heads=8,
        attention_head_dim=4,  # diffusers takes this as the number of heads
        norm_num_groups=16,
    ).to(memory_format=torch.channels_last)


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            projection_dim=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_scheduler() -> DDIMScheduler:
    """The schedule of Stable Diffusion with zero terminal signal, so that white backgrounds come out white."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def caption(name: str, category: str, rng: random.Random) -> str:
    """The name, the name and category, the category alone, or (one in ten) nothing."""
    chance, category = rng.random(), category.lower()
    if chance < 0.1:
        return ""
    if chance < 0.15:
        return category
    return f"{name}, {category}" if chance < 0.3 else name


@dataclass
class Noising:
    """The loss of a v-prediction network along a schedule, its words included."""

    scheduler: DDIMScheduler
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel

    def error(self, clean: Tensor, captions: list[str], steps: Tensor, noise: Tensor, network: Any) -> Tensor:
        """Mean square error of the velocities that `network` predicts for noised latents."""
        share = self.scheduler.alphas_cumprod[steps][:, None, None, None]
        a, b = share.sqrt(), (1 - share).sqrt()
        ids = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        noisy = (a * clean + b * noise).contiguous(memory_format=torch.channels_last)
        with bfloat16():
            context = self.text_encoder(ids).last_hidden_state
            velocity = network(noisy, steps, context).sample.float()
        return (velocity - (a * noise - b * clean)).square().mean()


def spread_steps(batch: int) -> Tensor:
    """Time steps of a batch: evenly spread, from step to step elsewhere."""
    spread = (torch.rand(()) + torch.arange(batch) / batch) % 1
    return (spread**HARD * 1000).long().clamp(max=999)


def unet_stage(work: Path, batch: int = 32, compiled: bool = False) -> Stage:
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    unet, text_encoder = new_unet(), new_text_encoder(tokenizer)
    emoji = Emoji.named(work)
    train = emoji.drawn()
    held_out = [i for i in emoji.split(held_out=True) if emoji.categories[i] in CATEGORIES]
    stored = load_file(work / "latents.safetensors")["latents"] if (work / "latents.safetensors").exists() else None
    unet.set_attn_processor(AttnProcessor())  # a third faster backward than fused attention on these small grids
    forward = torch.compile(unet, dynamic=False) if compiled else unet

    noising = Noising(new_scheduler(), tokenizer, text_encoder)

    def loss(rng: random.Random) -> Tensor:
        assert stored is not None
        chosen = rng.sample(train, batch)
        variants = [rng.randrange(VARIANTS) if rng.random() < 0.4 else 0 for _ in chosen]
        clean = stored[variants, chosen].float()
        texts = [caption(emoji.names[i], emoji.categories[i], rng) for i in chosen]
        steps = spread_steps(batch)
        return noising.error(clean, texts, steps, torch.randn_like(clean), forward)

    def validate() -> float:
        assert stored is not None
        clean, generator = stored[0, held_out].float(), torch.Generator().manual_seed(0)
        steps = torch.arange(len(held_out)) * 1000 // len(held_out)
        noise = torch.randn(clean.shape, generator=generator)
        with torch.inference_mode():
            return noising.error(clean, [emoji.names[i] for i in held_out], steps, noise, unet).item()

    model = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    matrices = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and not re.search("embed|conv_in|conv_out", name)
    ]
    return Stage("unet", work, model, loss, validate, rate=5e-4, decay=0.999, matrices=matrices)


@app.command()
def unet(hours: float = 4.5, batch: int = 32, compiled: bool = False, work: Work = DEFAULT_WORK) -> None:
    """Train the U-Net and the text encoder until HOURS are used up over all runs."""
    unet_stage(work, batch, compiled).train(hours)


@app.command()
def resume(folder: Path, work: Work = DEFAULT_WORK) -> None:
    """Go on from an exported model: its autoencoder and vocabulary are kept, its U-Net and text encoder trained on."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.tokenizer.save_pretrained(work / "tokenizer")
    pipe.vae.save_pretrained(work / "vae")
    stage = unet_stage(work)
    trained = nn.ModuleDict({"unet": pipe.unet, "text_encoder": pipe.text_encoder})
    stage.model.load_state_dict(trained.state_dict())
    stage.average = {name: value.detach().clone() for name, value in stage.model.named_parameters()}
    stage.save()
    emoji = Emoji.load(work)
    keep(encoded(pipe.vae, emoji, list(range(len(emoji.names)))), work / "latents.safetensors")


# Pictures


def pipeline(work: Path) -> StableDiffusionPipeline:
    """The trained parts, with averaged weights."""
    model = unet_stage(work).averaged()
    assert isinstance(model, nn.ModuleDict)
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(work / "vae"),
        text_encoder=model["text_encoder"],
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"),
        unet=model["unet"],
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def grid(pictures: list[Image.Image], columns: int, captions: list[str]) -> Image.Image:
    """Pictures in rows, the caption of each below it (none where they end)."""
    rows, below = -(-len(pictures) // columns), 16 if captions else 0
    side = pictures[0].width
    sheet = Image.new("RGB", (columns * (side + 4), rows * (side + 4 + below)), "#ffffff" if captions else "#888888")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for i, picture in enumerate(pictures):
        left, top = i % columns * (side + 4) + 2, i // columns * (side + 4 + below) + 2
        sheet.paste(picture, (left, top))
        if i < len(captions):
            words = captions[i][: side // 5 + 1]
            draw.text((left + side // 2, top + side + 8), words, "#000000", font, anchor="mm")
    return sheet


def by_lot(pipe: Any, names: list[str], count: int, seed: int, **options: Any) -> Image.Image:
    """A sheet of what a pipeline makes of names drawn by lot, four at a time."""
    captions = sorted(random.Random(3).sample(names, count))
    torch.manual_seed(seed)
    pictures = [
        picture
        for some in groups(list(range(count)), 4)
        for picture in pipe([captions[i] for i in some], **options).images
    ]
    return grid(pictures, 8, captions)


def to_image(picture: Tensor) -> Image.Image:
    pixels = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def strokes(picture: Image.Image) -> Image.Image:
    """The picture as a few flat patches of colour."""
    tiny = picture.resize((12, 12), Image.Resampling.BOX).quantize(6).convert("RGB")
    return tiny.resize((SIZE, SIZE), Image.Resampling.NEAREST)


UNSEEN = ("cat face", "penguin", "blue apple", "donkey", "blueberries", "animals & nature", "food & drink", "")


@app.command()
def sheet(kind: str, steps: int = 30, guidance: float = 3.0, seed: int = 0, work: Work = DEFAULT_WORK) -> None:
    """Write KIND.png: `reconstructions` (held-out, above their originals), `prompts` (names drawn by lot, then some
    that it never saw) or `strokes`.
    """
    emoji = Emoji.load(work)
    torch.manual_seed(seed)
    some = random.Random(1).sample(emoji.split(held_out=True), 20)
    if kind == "strokes":
        some = some[:10] + random.Random(2).sample(emoji.split(held_out=False), 10)
    originals = emoji.crops(some, SIZE, 0, random.Random(0))
    pictures, captions = [], list[str]()
    if kind == "reconstructions":
        vae = autoencoder_stage(work, emoji).averaged()
        with torch.inference_mode():
            again = vae.decode(vae.encode(originals).latent_dist.sample()).sample
        print(f"PSNR {psnr(again.clamp(-1, 1), originals):.2f} dB")
        for top, bottom in zip(groups(list(range(20)), 10), groups(list(range(20)), 10), strict=True):
            pictures += [to_image(again[i]) for i in top] + [to_image(originals[i]) for i in bottom]
    elif kind == "prompts":
        captions = sorted(random.Random(3).sample(DRAWN.read_text().splitlines(), 32)) + list(UNSEEN)
        pictures = pipeline(work)(captions, num_inference_steps=steps, guidance_scale=guidance).images
    elif kind == "strokes":
        pipe = StableDiffusionImg2ImgPipeline.from_pipe(pipeline(work))
        names = [emoji.names[i] for i in some]
        rough = [strokes(to_image(picture)) for picture in originals]
        for half in groups(list(range(20)), 10):
            pictures += [to_image(originals[i]) for i in half] + [rough[i] for i in half]
            pictures += pipe(
                [names[i] for i in half],
                [rough[i] for i in half],
                strength=0.7,
                num_inference_steps=steps,
                guidance_scale=guidance,
            ).images
    else:
        raise typer.BadParameter(f"{kind} is none of reconstructions, prompts and strokes")
    grid(pictures, 10, captions).save(work / f"{kind}.png")


@app.command("held-out")
def held_out(folder: Path, work: Work = DEFAULT_WORK) -> None:
    """Write the held-out pictures to FOLDER, named after their captions: for `retouch bench quality --images`."""
    emoji = Emoji.load(work)
    chosen = emoji.split(held_out=True)
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in zip(chosen, emoji.crops(chosen, SIZE, 0, random.Random(0)), strict=True):
        to_image(picture).save(folder / f"{emoji.names[index].replace(' ', '-')}.png")


@app.command()
def export(folder: Path, work: Work = DEFAULT_WORK) -> None:
    """Write the trained model to FOLDER in half precision, for `StableDiffusionPipeline.from_pretrained`."""
    write(pipeline(work), folder)


def write(pipe: Any, folder: Path) -> None:
    """A pipeline in a folder, in half precision and without the paths that it was loaded from."""
    pipe = pipe.to(dtype=torch.float16)
    pipe.save_pretrained(folder, safe_serialization=True)
    for words in folder.glob("tokenizer*"):
        pipe.tokenizer.backend_tokenizer.model.save(str(words))  # for releases that read vocab.json
    for settings in folder.glob("text_encoder*/config.json"):  # loaded as float32 unless told otherwise, as all
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "dtype": "float32"}, indent=2) + "\n")
    for config in (folder / "model_index.json", *folder.glob("*/config.json")):  # without the path it was loaded from
        kept = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
        config.write_text(json.dumps(kept, indent=2) + "\n")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    app()

"""Tune the emoji model on scenes, several emoji on a plain background, 256x256, and distil it to four steps.

Commands in their order: black, encode, unet, distil, sheet, export.
"""

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import emoji as small
import torch
import torch.nn.functional as F
import typer
from diffusers import AutoencoderKL, LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_show_locals=False)

SIZE = 256  # pixels of a scene
FACTOR = 4  # pixels of a latent's position
MOST = 4  # emoji in a scene
SIZES = (96, 128)  # their pixels, least and most; the base draws them at 128
APART = 0.95  # of the sum of two half sizes: how near they may come
DRAWN = Path(__file__).parent / "scenes.txt"  # names of the emoji in scenes
CROP = 40  # positions of a latent, in most of the training steps
SOLVER = 50  # steps of the solver that distillation follows
GUIDANCE = (2.0, 6.0)  # scales that the student learns
EMBEDDED = 128  # numbers that stand for a scale
TIMESTEP_SCALING = 10.0  # as in LCMScheduler
HUBER = 1e-3

COLOURS = {
    "white": (255, 255, 255),
    "yellow": (252, 238, 180),
    "orange": (252, 220, 190),
    "red": (248, 205, 200),
    "purple": (226, 210, 245),
    "blue": (200, 225, 248),
    "green": (205, 235, 205),
}
"""Backgrounds by the word that a caption has for them, RGB; each is varied a little."""

Work = Annotated[Path, typer.Option(help="Folder of the data, checkpoints and logs.")]
Base = Annotated[Path, typer.Option(help="Folder of the emoji model that is tuned.")]
DEFAULT_BASE = Path(__file__).parents[1] / "src" / "retouch" / "models" / "emoji"


# Data


@dataclass(frozen=True)
class Thing:
    """One emoji of a scene: index of its picture, left and top, size in pixels, mirrored or not."""

    index: int
    left: int
    top: int
    size: int
    mirrored: bool

    def inside(self, left: int, top: int, size: int) -> bool:
        """Whether its middle lies in a square of pixels."""
        x, y = self.left + self.size / 2 - left, self.top + self.size / 2 - top
        return 0 <= x < size and 0 <= y < size


def arranged(indices: list[int], pictures: small.Emoji, rng: random.Random) -> list[Thing]:
    """Emoji at random places that hardly overlap; those that find no place are left out."""
    found: list[Thing] = []
    for index in indices:
        for _ in range(30):
            size = rng.randint(*SIZES)
            left, top = (rng.randint(0, SIZE - size) for _ in range(2))
            middle = (left + size / 2, top + size / 2)
            near = (
                max(abs(middle[0] - t.left - t.size / 2), abs(middle[1] - t.top - t.size / 2))
                < APART * (size + t.size) / 2
                for t in found
            )
            if not any(near):
                found.append(Thing(index, left, top, size, pictures.mirrors(index) and rng.random() < 0.5))
                break
    return found


def background(rng: random.Random) -> tuple[str, Tensor]:
    """The name of a colour, and it as `[3, 1, 1]` in [0, 1], varied."""
    name = "white" if rng.random() < 0.3 else rng.choice(list(COLOURS))
    vary = 0 if name == "white" else 8
    colour = torch.tensor([min(255, max(0, c + rng.uniform(-vary, vary))) for c in COLOURS[name]]) / 255
    return name, colour[:, None, None]


def drawn_scene(things: list[Thing], colour: Tensor, cut: "Cutouts") -> Tensor:
    """The scene, `[3, 256, 256]` in [-1, 1]."""
    scene = colour.expand(3, SIZE, SIZE).clone()
    for thing in things:
        ink, cover = cut.at(thing)
        top, left = max(0, thing.top), max(0, thing.left)
        bottom, right = min(SIZE, thing.top + thing.size), min(SIZE, thing.left + thing.size)
        part = (slice(top - thing.top, bottom - thing.top), slice(left - thing.left, right - thing.left))
        place = scene[:, top:bottom, left:right]
        place += cover[:, *part] * (ink[:, *part] - place)
    return scene * 2 - 1


class Cutouts:
    """Emoji with their transparency: renderings on white and on black tell both."""

    def __init__(self, on_white: Tensor, on_black: Tensor) -> None:
        self.on_white, self.on_black = on_white, on_black

    def at(self, thing: Thing) -> tuple[Tensor, Tensor]:
        """Colour `[3, s, s]` and cover `[1, s, s]` of a thing in [0, 1]."""
        both = torch.stack([self.on_white[thing.index], self.on_black[thing.index]]).float() / 255
        size = (thing.size, thing.size)
        white, black = F.interpolate(both, size, mode="bilinear", antialias=True, align_corners=False)
        if thing.mirrored:
            white, black = white.flip(-1), black.flip(-1)
        cover = (1 - (white - black).mean(0, keepdim=True)).clamp(0, 1)
        return (black / cover.clamp(min=1e-3)).clamp(0, 1), cover


def learnt(work: Path) -> tuple[small.Emoji, list[int]]:
    """The pictures, and the indices of those that the U-Net learns."""
    pictures = small.Emoji.load(work)
    drawn = set(DRAWN.read_text().splitlines())
    return pictures, [i for i in pictures.split(held_out=False) if pictures.names[i] in drawn]


@app.command()
def black(archive: Path, work: Work = small.DEFAULT_WORK) -> None:
    """Render the icons of ARCHIVE on black, beside what `emoji.py data` rendered on white: both give transparency."""
    pictures = small.Emoji.load(work)
    rendered = small.rendered(archive, [name.replace(" ", "-") for name in pictures.names], "#000000")
    save_file({"images": rendered}, work / "black.safetensors")


@app.command()
def encode(count: int = 1600, work: Work = small.DEFAULT_WORK, base: Base = DEFAULT_BASE, seed: int = 0) -> None:
    """Compose COUNT scenes and keep their latents and what is where."""
    pictures, indices = learnt(work)
    cut = Cutouts(pictures.images, load_file(work / "black.safetensors")["images"])
    vae = AutoencoderKL.from_pretrained(base / "vae", torch_dtype=torch.float32).to(memory_format=torch.channels_last)
    rng = random.Random(seed)
    kept, scenes = [], []
    with torch.inference_mode():
        for first in range(0, count, 8):
            batch = []
            for _ in range(min(8, count - first)):
                name, colour = background(rng)
                things = arranged(rng.sample(indices, rng.randint(1, MOST)), pictures, rng)
                batch.append(drawn_scene(things, colour, cut))
                scenes.append({"background": name, "things": [vars(thing) for thing in things]})
            with small.bfloat16():
                kept.append(vae.encode(torch.stack(batch)).latent_dist.mean.bfloat16())
            if first % 80 == 0:
                print(f"{first} of {count}", flush=True)
    save_file({"latents": torch.cat(kept).contiguous()}, work / "scenes.safetensors")
    (work / "scenes.json").write_text(json.dumps(scenes))


# Training


def caption(scene: dict[str, Any], things: list[Thing], names: list[str], rng: random.Random) -> str:
    """Names of all things or of some, the background in half of them; nothing in one of ten."""
    if rng.random() < 0.1:
        return ""
    some = rng.sample(things, len(things))
    if rng.random() < 0.3:
        some = some[: rng.randint(1, max(1, len(some)))]
    words = [names[thing.index] for thing in some] + [scene["background"]] * (rng.random() < 0.5)
    return ", ".join(words)


def around(thing: Thing, size: int, rng: random.Random) -> tuple[int, int]:
    """Left and top of a square of a latent that holds a thing whole."""
    found = []
    for begin in (thing.left, thing.top):
        least = max(0, -(-(begin + thing.size) // FACTOR) - size)
        most = min(SIZE // FACTOR - size, begin // FACTOR)
        found.append(rng.randint(least, max(least, most)))
    return found[0], found[1]


@dataclass(frozen=True)
class Scenes:
    """Latents of scenes, [N, 4, 64, 64], what lies in them, and the names of all emoji."""

    latents: Tensor
    scenes: list[dict[str, Any]]
    names: list[str]

    @classmethod
    def load(cls, work: Path) -> "Scenes":
        names = [name for name, _ in json.loads((work / "captions.json").read_text())]
        latents = load_file(work / "scenes.safetensors")["latents"]
        return cls(latents, json.loads((work / "scenes.json").read_text()), names)

    def title(self, index: int) -> str:
        """The names of all things in a scene."""
        return ", ".join(self.names[thing["index"]] for thing in self.scenes[index]["things"])

    def sample(self, size: int, rng: random.Random) -> tuple[Tensor, str]:
        """A square of a scene, by positions of its latent, with a caption of what lies in it."""
        chosen = rng.randrange(len(self.scenes))
        things = [Thing(**thing) for thing in self.scenes[chosen]["things"]]
        left, top = around(rng.choice(things), size, rng)
        seen = [t for t in things if t.inside(left * FACTOR, top * FACTOR, size * FACTOR)]
        clean = self.latents[chosen, :, top : top + size, left : left + size].float()
        return clean, caption(self.scenes[chosen], seen, self.names, rng)


def unet_stage(work: Path, base: Path, compiled: bool = False) -> small.Stage:
    pipe = StableDiffusionPipeline.from_pretrained(base, dtype=torch.float32)
    tokenizer: CLIPTokenizer = pipe.tokenizer
    unet, text_encoder = pipe.unet.to(memory_format=torch.channels_last), pipe.text_encoder
    scenes = Scenes.load(work)
    unet.set_attn_processor(AttnProcessor())
    forward = torch.compile(unet, dynamic=False) if compiled else unet
    noising = small.Noising(small.new_scheduler(), tokenizer, text_encoder)

    def loss(rng: random.Random) -> Tensor:
        size, batch = (CROP, 16) if rng.random() < 0.7 else (SIZE // FACTOR, 6)
        clean, texts = zip(*(scenes.sample(size, rng) for _ in range(batch)), strict=True)
        steps = small.spread_steps(batch)
        stacked = torch.stack(clean)
        return noising.error(stacked, list(texts), steps, torch.randn_like(stacked), forward)

    def validate() -> float:
        clean, texts = scenes.latents[:12].float(), [scenes.title(i) for i in range(12)]
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            return noising.error(clean, texts, torch.arange(12) * 1000 // 12, noise, unet).item()

    model = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    matrices = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and not re.search("embed|conv_in|conv_out", name)
    ]
    return small.Stage("scenes", work, model, loss, validate, rate=4e-4, decay=0.998, matrices=matrices)


@app.command()
def unet(hours: float = 2, compiled: bool = False, work: Work = small.DEFAULT_WORK, base: Base = DEFAULT_BASE) -> None:
    """Tune the U-Net and the text encoder until HOURS are used up over all runs."""
    unet_stage(work, base, compiled).train(hours)


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


def distil_stage(work: Path, teacher: StableDiffusionPipeline) -> small.Stage:
    unet, text_encoder = teacher.unet.requires_grad_(False), teacher.text_encoder.requires_grad_(False)
    unet.set_attn_processor(AttnProcessor())
    student, target = student_of(unet), student_of(unet).requires_grad_(False)
    noising = small.Noising(small.new_scheduler(), teacher.tokenizer, text_encoder)
    consistency = Consistency(noising, unet.to(memory_format=torch.channels_last), student, target)
    scenes = Scenes.load(work)

    def loss(rng: random.Random) -> Tensor:
        size, batch = (CROP, 10) if rng.random() < 0.5 else (SIZE // FACTOR, 4)
        clean, texts = zip(*(scenes.sample(size, rng) for _ in range(batch)), strict=True)
        return consistency.loss(torch.stack(clean), list(texts))

    def validate() -> float:
        torch.manual_seed(0)
        with torch.inference_mode():
            return consistency.loss(scenes.latents[:12].float(), [scenes.title(i) for i in range(12)]).item()

    matrices = [
        parameter
        for name, parameter in student.named_parameters()
        if parameter.ndim > 1 and not re.search("embed|conv_in|conv_out", name)
    ]
    stage = small.Stage("distilled", work, student, loss, validate, rate=1e-4, decay=0.97, matrices=matrices)
    for name, parameter in target.named_parameters():
        parameter.data = stage.average[name]  # the running average is what the student is held against
    return stage


@app.command()
def distil(hours: float = 1, work: Work = small.DEFAULT_WORK, base: Base = DEFAULT_BASE) -> None:
    """Distil the tuned model to a few steps until HOURS are used up over all runs."""
    distil_stage(work, pipeline(work, base)).train(hours)


# Pictures and export


def pipeline(work: Path, base: Path) -> StableDiffusionPipeline:
    """The tuned parts, with averaged weights."""
    model = unet_stage(work, base).averaged()
    assert isinstance(model, nn.ModuleDict)
    pipe = StableDiffusionPipeline.from_pretrained(base, dtype=torch.float32)
    pipe.unet.load_state_dict(model["unet"].state_dict())
    pipe.unet.register_to_config(sample_size=SIZE // FACTOR)
    pipe.text_encoder.load_state_dict(model["text_encoder"].state_dict())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def fast_pipeline(work: Path, base: Path) -> StableDiffusionPipeline:
    """The distilled parts, with averaged weights and the scheduler that they are made for."""
    pipe = pipeline(work, base)
    pipe.unet = distil_stage(work, pipe).averaged()
    pipe.register_to_config(unet=("diffusers", "UNet2DConditionModel"))
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config, original_inference_steps=SOLVER)
    return pipe


MAKERS = {"scenes": pipeline, "scenes-lcm": fast_pipeline}
Which = Annotated[str, typer.Argument(help="scenes (tuned) or scenes-lcm (distilled).")]


@app.command()
def sheet(
    which: Which,
    steps: int = 20,
    guidance: float = 4.0,
    seed: int = 0,
    count: int = 12,
    work: Work = small.DEFAULT_WORK,
    base: Base = DEFAULT_BASE,
) -> None:
    """Write WHICH.png: COUNT scenes of one to four names drawn by lot, on a background drawn by lot."""
    pipe, rng = MAKERS[which](work, base), random.Random(3)
    names = DRAWN.read_text().splitlines()
    torch.manual_seed(seed)
    captions = [", ".join([*rng.sample(names, 1 + i % 4), rng.choice(list(COLOURS))]) for i in range(count)]
    pictures: list[Image.Image] = []
    for text in captions:
        pictures += pipe(text, num_inference_steps=steps, guidance_scale=guidance).images
    small.grid(pictures, 4, captions).save(work / f"{which}.png")


@app.command()
def export(which: Which, folder: Path, work: Work = small.DEFAULT_WORK, base: Base = DEFAULT_BASE) -> None:
    """Write a model to FOLDER in half precision, for `StableDiffusionPipeline.from_pretrained`."""
    small.write(MAKERS[which](work, base), folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    app()

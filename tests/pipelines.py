"""Small pipelines with random weights, built once, as diffusers would load them."""

from __future__ import annotations

import json
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import peft
import torch
import transformers

from retouch.models import transformers as built
from support import fill

PIXELS, LATENT_PIXELS = 32, 64


def _unet2d(**options: Any) -> Any:
    return fill(diffusers.UNet2DModel(
        sample_size=PIXELS, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"), **options,
    ))  # fmt: skip


def _scheduler(**options: Any) -> Any:
    return diffusers.DDIMScheduler(**options)


PIXEL_SCHEDULERS = {
    "ddpm": diffusers.DDPMScheduler,
    "v": partial(_scheduler, prediction_type="v_prediction", timestep_spacing="trailing"),
    "classes": diffusers.DDPMScheduler,
    "numbers": diffusers.DDPMScheduler,
    "flow": partial(diffusers.FlowMatchEulerDiscreteScheduler, shift=3.0),
    "angle": diffusers.SCMScheduler,
}
"""Pipelines on pixels, whose networks read no words."""


def _tokenizer() -> Any:
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz", *(f"{c}</w>" for c in "abcdefgh")]
    folder = Path(tempfile.mkdtemp())
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8)


def _text(projection: bool = False) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=64, hidden_size=24, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8, projection_dim=16, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return fill(kind(config))


def _vae(**options: Any) -> Any:
    return fill(diffusers.AutoencoderKL(
        block_out_channels=(16, 16, 32), layers_per_block=1, latent_channels=4, norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        sample_size=LATENT_PIXELS, **options,
    ))  # fmt: skip


def tiny_vae() -> Any:
    """As TAESD, for the pipelines with an autoencoder of the full size."""
    return fill(diffusers.AutoencoderTiny(
        encoder_block_out_channels=(16,) * 3, decoder_block_out_channels=(16,) * 3, num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    ))  # fmt: skip


def asymmetric_vae() -> Any:
    """With a larger decoder, for the same pipelines."""
    return fill(diffusers.AsymmetricAutoencoderKL(
        down_block_out_channels=(16, 16, 32), up_block_out_channels=(16, 32, 32), norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        sample_size=LATENT_PIXELS,
    ))  # fmt: skip


def _t5(width: int = 24) -> tuple[Any, Any]:
    """Tokenizer and encoder of words."""
    return built.t5_tokenizer(16), fill(built.t5(True, width))


def _weighted(module: Any) -> Any:
    """With random weights, and buffers as they were: files do not hold all of them."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    for name, buffer in fill(module).named_buffers():
        buffer.copy_(buffers[name])
    return module


def chroma(kind: str = "ChromaPipeline") -> Any:
    """Chroma as one of its pipelines."""
    tokenizer, encoder = _t5()
    transformer = _weighted(built.chroma(True))
    if "Inpaint" in kind:
        transformer.register_to_config(guidance_embeds=False)  # the pipeline asks for it
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return getattr(diffusers, kind)(scheduler, fill(built.flux_vae(True)), encoder, tokenizer, transformer)


def pixart(kind: str, **options: Any) -> Any:
    """PixArt as one of its pipelines."""
    tokenizer, encoder = _t5()
    scheduler = diffusers.DPMSolverMultistepScheduler(beta_schedule="linear")
    transformer = _weighted(built.pixart(True, **options))
    return getattr(diffusers, kind)(tokenizer, encoder, _vae(), transformer, scheduler)


def sana(kind: str = "SanaPipeline") -> Any:
    """Sana, or Sana-Sprint."""
    sprint, encoder = "Sprint" in kind, _weighted(built.gemma(True))
    options = {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"} if sprint else {"timestep_scale": 1.5}
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    scheduler = diffusers.SCMScheduler() if sprint else diffusers.DPMSolverMultistepScheduler(**flow)
    transformer, vae = fill(built.sana(True, **options)), fill(built.dc_vae(True))
    return getattr(diffusers, kind)(built.gemma_tokenizer(16), encoder, vae, transformer, scheduler)


FLUX = {
    "flux": "Flux", "flux-dev": "Flux", "fill": "FluxFill", "kontext": "FluxKontext", "flux-inpaint": "FluxInpaint",
    "kontext-inpaint": "FluxKontextInpaint",
}  # fmt: skip


def _flux(name: str) -> Any:
    """As FLUX.1 schnell, dev (reads the scale of guidance), Fill or Kontext, or one that inpaints."""
    tokenizer, encoder = _t5()
    inputs = 4 * (2 * 4 + 4**2) if name == "fill" else None
    transformer = fill(built.flux(True, inputs, reads_guidance=name != "flux"))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=name != "flux")
    return getattr(diffusers, f"{FLUX[name]}Pipeline")(
        scheduler=scheduler, vae=fill(built.flux_vae(True)), text_encoder=_text(), tokenizer=_tokenizer(),
        text_encoder_2=encoder, tokenizer_2=tokenizer, transformer=transformer,
    )  # fmt: skip


def _qwen_words() -> tuple[Any, Any]:
    """Tokenizer, of single bytes, and language model."""
    return built.byte_tokenizer(), _weighted(built.qwen_words(True))


def qwen_vae() -> Any:
    """The autoencoder of Qwen-Image, for video."""
    return fill(built.qwen_vae(True))


class Eyes:
    """As transformers' `Qwen2VLProcessor`, which needs torchvision."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.pictures = transformers.Qwen2VLImageProcessorPil(size={"shortest_edge": 28**2, "longest_edge": 56**2})

    def __call__(self, text: list[str], images: Any, padding: bool, return_tensors: str) -> Any:
        found = self.pictures(images=images, return_tensors=return_tensors)
        for count in found["image_grid_thw"].prod(-1) // 4:
            text = [each.replace(PAD, SEEN * int(count), 1) for each in text]
        words = self.tokenizer([each.replace(SEEN, PAD) for each in text], padding=padding, return_tensors="pt")
        return transformers.BatchFeature({**words, **found})


PAD, SEEN = "<|image_pad|>", "<|seen|>"
QWEN = {
    "qwen": "QwenImage", "qwen-inpaint": "QwenImageInpaint", "qwen-edit": "QwenImageEdit",
    "qwen-plus": "QwenImageEditPlus", "qwen-2511": "QwenImageEditPlus", "qwen-edit-inpaint": "QwenImageEditInpaint",
}  # fmt: skip


def _qwen(name: str) -> Any:
    """Qwen-Image, or one of those that edit."""
    tokenizer, encoder = _qwen_words()
    timeless = {"zero_cond_t": True} if name == "qwen-2511" else {}
    transformer = fill(built.qwen_image(True, **timeless))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02)
    alone = name in ("qwen", "qwen-inpaint")
    eyes = {} if alone else {"processor": Eyes(tokenizer)}
    pipe = getattr(diffusers, f"{QWEN[name]}Pipeline")(
        scheduler=scheduler, vae=qwen_vae(), text_encoder=encoder, tokenizer=tokenizer, transformer=transformer, **eyes
    )
    seen = f"<|vision_start|>{PAD}<|vision_end|>" if name.startswith("qwen-edit") else ""
    pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx = f"picture:{seen}{{}}.", 8
    pipe.tokenizer_max_length = 8 if alone else 16
    return pipe


def _sd3() -> Any:
    tokenizer, encoder = _t5(48)
    transformer = fill(diffusers.SD3Transformer2DModel(
        sample_size=LATENT_PIXELS // 4, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=48, caption_projection_dim=32, pooled_projection_dim=32,
        pos_embed_max_size=LATENT_PIXELS // 8, qk_norm="rms_norm", dual_attention_layers=(0,),
    ))  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), _vae(shift_factor=0.1, scaling_factor=0.4),
        _text(True), _tokenizer(), _text(True), _tokenizer(), encoder, tokenizer,
    )  # fmt: skip


def _qwen3(layers: int, width: int) -> tuple[Any, Any]:
    """Tokenizer and language model of letters, with a chat around them; 64 tokens at most."""
    return built.chat_tokenizer(True), _weighted(built.qwen3(layers, width, True))


def klein(kind: str = "Flux2KleinPipeline", **options: Any) -> Any:
    """FLUX.2 klein as one of its pipelines."""
    tokenizer, encoder = _qwen3(27, 8)
    vae, transformer = _weighted(built.flux2_vae(True)), fill(built.flux2_klein(True))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    return getattr(diffusers, kind)(scheduler, vae, encoder, tokenizer, transformer, **options)


def z_image(kind: str = "ZImagePipeline", **options: Any) -> Any:
    """Z-Image as one of its pipelines."""
    tokenizer, encoder = _qwen3(2, 24)
    transformer = fill(built.z_image(True))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, **options)
    vae = fill(built.flux_vae(True))
    return getattr(diffusers, kind)(scheduler, vae, encoder, tokenizer, transformer)


def _unet(channels: int = 4, **options: Any) -> Any:
    return fill(diffusers.UNet2DConditionModel(
        sample_size=LATENT_PIXELS // 4, in_channels=channels, out_channels=4, block_out_channels=(16, 32),
        layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), norm_num_groups=8, attention_head_dim=4,
        cross_attention_dim=24, **options,
    ))  # fmt: skip


def _xl_unet() -> Any:
    return fill(diffusers.UNet2DConditionModel(
        sample_size=LATENT_PIXELS // 4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=1, norm_num_groups=8, attention_head_dim=4, cross_attention_dim=48,
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64,
    ))  # fmt: skip


def _control_net(unet: Any, seed: int) -> Any:
    """That of a U-Net, with other weights."""
    net = diffusers.ControlNetModel.from_unet(unet, "rgb", (8, 16, 24), load_weights_from_unet=False)
    return fill(net, seed)


def _t2i_adapter(seed: int, **options: Any) -> Any:
    options = {"downscale_factor": 4, "adapter_type": "full_adapter", **options}
    return fill(diffusers.T2IAdapter(3, [16, 32], 1, **options), seed)


def with_lora(pipe: Any, name: str, seed: int = 0, **options: Any) -> None:
    """Give a pipeline a LoRA of random weights that is not fused, in its U-Net and its text encoder."""
    layers = ["to_q", "to_v", "to_out.0", "conv1", "proj_in", "time_emb_proj"]
    options = {"r": 4, "lora_alpha": 2, "init_lora_weights": False, **options}
    torch.manual_seed(seed)
    pipe.unet.add_adapter(peft.LoraConfig(target_modules=layers, **options), adapter_name=name)
    pipe.text_encoder.add_adapter(peft.LoraConfig(target_modules=["q_proj", "v_proj"], **options), adapter_name=name)


def _with_image_prompt(pipe: Any) -> None:
    """Give a pipeline an IP-Adapter of random weights."""
    random = torch.Generator().manual_seed(5)

    def weights(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random) / shape[-1] ** 0.5

    projection = {"proj.weight": weights(4 * 24, 16), "proj.bias": weights(4 * 24)}
    projection |= {"norm.weight": torch.ones(24), "norm.bias": weights(24)}
    attentions = {}
    for number, name in enumerate(pipe.unet.attn_processors):
        if name.endswith("attn2.processor"):
            channels = pipe.unet.get_submodule(name.removesuffix(".processor")).to_q.weight.shape[0]
            for kind in "kv":
                attentions[f"{number}.to_{kind}_ip.weight"] = 3 * weights(channels, 24)
    pipe.unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": attentions}])
    fill(pipe.unet.encoder_hid_proj)


def _vision() -> Any:
    config = transformers.CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8,
        projection_dim=16,
    )  # fmt: skip
    return fill(transformers.CLIPVisionModelWithProjection(config))


def adapted(name: str) -> Any:
    """A new pipeline with an adapter: "lora" (two), "control", "controls" (two), "xl-controls" (two), "xl-t2i",
    "inpaint-control", "t2i" (two) or "ip".
    """
    scheduler = _scheduler(steps_offset=1, clip_sample=False, beta_schedule="scaled_linear")
    parts = {"vae": tiny_vae(), "text_encoder": _text(), "tokenizer": _tokenizer(), "scheduler": scheduler}
    if name.startswith("xl"):
        unet = _xl_unet()
        parts |= {"text_encoder_2": _text(True), "tokenizer_2": _tokenizer(), "unet": unet}
        if name == "xl-t2i":
            adapter = _t2i_adapter(1, downscale_factor=8, adapter_type="full_adapter_xl")
            return diffusers.StableDiffusionXLAdapterPipeline(**parts, adapter=adapter)
        nets = [_control_net(unet, seed) for seed in (1, 2)]
        return diffusers.StableDiffusionXLControlNetPipeline(**parts, controlnet=nets, add_watermarker=False)
    unet = _unet(9 if name == "inpaint-control" else 4)
    parts |= {"unet": unet, "safety_checker": None, "requires_safety_checker": False}
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16)
    parts["feature_extractor"] = images if name == "ip" else None
    if name == "t2i":
        adapters = [_t2i_adapter(1), _t2i_adapter(2)]
        return diffusers.StableDiffusionAdapterPipeline(**parts, adapter=diffusers.MultiAdapter(adapters))
    if name in ("lora", "ip"):
        pipe = diffusers.StableDiffusionPipeline(**parts, image_encoder=_vision() if name == "ip" else None)
        if name == "ip":
            _with_image_prompt(pipe)
        else:
            with_lora(pipe, "style", 1)
            with_lora(pipe, "hat", 2, lora_alpha=8)
            pipe.set_adapters(["style"], [0.7])
        return pipe
    nets = [_control_net(_unet(), seed) for seed in ((1, 2) if name == "controls" else (1,))]
    kind = "ControlNetInpaint" if name == "inpaint-control" else "ControlNet"
    return getattr(diffusers, f"StableDiffusion{kind}Pipeline")(**parts, controlnet=nets if nets[1:] else nets[0])


TRANSFORMERS = {
    **{name: partial(_flux, name) for name in FLUX}, "sd3": _sd3,
    **{name: partial(_qwen, name) for name in QWEN},
    "klein": partial(klein, is_distilled=True), "klein-base": klein, "z-image": z_image,
    "klein-kv": partial(klein, "Flux2KleinKVPipeline"),
    "klein-inpaint": partial(klein, "Flux2KleinInpaintPipeline", is_distilled=True),
    "z-image-inpaint": partial(z_image, "ZImageInpaintPipeline"),
    "chroma": chroma, "chroma-inpaint": partial(chroma, "ChromaInpaintPipeline"),
    "pixart": partial(pixart, "PixArtSigmaPipeline"),
    "pixart-alpha": partial(
        pixart, "PixArtAlphaPipeline", use_additional_conditions=True, sample_size=128, num_attention_heads=3,
        cross_attention_dim=48,
    ),
    "sana": sana, "sprint": partial(sana, "SanaSprintPipeline"),
}  # fmt: skip


@cache
def pipeline(name: str) -> Any:
    """ "ddpm", "v" (v-prediction), "classes" (four), "numbers" (any is a class), "flow" (flow matching), "angle"
    (trigflow), "sd", "inpaint" (nine channels), "lcm" (reads the scale of guidance), "turbo" (trailing,
    ancestral), "taesd" (small autoencoder), "sdxl", "xl-turbo" or one of `TRANSFORMERS`: "flux" (as schnell),
    "flux-dev", "fill", "kontext", "flux-inpaint", "kontext-inpaint", "qwen", "qwen-inpaint", "qwen-edit",
    "qwen-plus", "qwen-2511" (pictures see no time), "qwen-edit-inpaint",
    "sd3" (as 3.5), "klein" (distilled), "klein-base", "klein-kv", "klein-inpaint" (reads the
    picture), "z-image", "z-image-inpaint", "chroma", "chroma-inpaint", "pixart" (-Sigma), "pixart-alpha" (reads
    the size), "sana", "sprint".
    """
    if name in PIXEL_SCHEDULERS:
        classes = {"classes": {"num_class_embeds": 4}, "numbers": {"class_embed_type": "timestep"}}
        unet = _unet2d(**classes.get(name, {}))
        kind = diffusers.DDIMPipeline if name == "v" else diffusers.DDPMPipeline
        return kind(unet, PIXEL_SCHEDULERS[name]())
    if name in TRANSFORMERS:
        return TRANSFORMERS[name]()
    scheduler = _scheduler(steps_offset=1, clip_sample=False, beta_schedule="scaled_linear")
    if name in ("turbo", "xl-turbo"):
        scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(scheduler.config, timestep_spacing="trailing")
    vae = tiny_vae() if name == "taesd" else _vae()
    parts = {"vae": vae, "text_encoder": _text(), "tokenizer": _tokenizer(), "scheduler": scheduler}
    if name in ("sdxl", "xl-turbo"):
        return diffusers.StableDiffusionXLPipeline(
            **parts, text_encoder_2=_text(True), tokenizer_2=_tokenizer(), unet=_xl_unet(), add_watermarker=False
        )
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if name == "lcm":
        parts["scheduler"] = diffusers.LCMScheduler.from_config(scheduler.config)
        return diffusers.LatentConsistencyModelPipeline(**parts, unet=_unet(time_cond_proj_dim=8), **none)
    kind = diffusers.StableDiffusionInpaintPipeline if name == "inpaint" else diffusers.StableDiffusionImg2ImgPipeline
    return kind(**parts, unet=_unet(9 if name == "inpaint" else 4), **none)


def picture(name: str, seed: int = 0) -> Any:
    """A smooth random picture uint8 `[H, W, 3]` of the pipeline's size."""
    size = PIXELS if name in PIXEL_SCHEDULERS else LATENT_PIXELS
    coarse = np.random.default_rng(seed).integers(0, 256, (size // 8, size // 8, 3), np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


def painted(image: Any, top: int = 9, left: int = 14, size: int = 5, colour: tuple[int, ...] = (255, 0, 40)) -> Any:
    """A copy with a square stroke."""
    result = np.array(image)
    result[top : top + size, left : left + size] = colour
    return result

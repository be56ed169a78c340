"""U-Nets of published diffusion models, from diffusers' classes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from retouch.models.extras import diffusers


def ddpm(tiny: bool = False) -> nn.Module:
    """UNet2DModel of google/ddpm-church-256: (x [1,3,256,256], t [1]) -> .sample like x."""
    down = ["DownBlock2D"] * 6
    up = ["UpBlock2D"] * 6
    down[4], up[1] = "AttnDownBlock2D", "AttnUpBlock2D"
    wide = (128, 128, 256, 256, 512, 512)
    module: nn.Module = diffusers().UNet2DModel(
        sample_size=64 if tiny else 256,
        block_out_channels=(16, 16, 32, 32, 48, 48) if tiny else wide,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        layers_per_block=1 if tiny else 2,
        attention_head_dim=None,
        downsample_padding=0,
        freq_shift=1,
        flip_sin_to_cos=False,
        norm_eps=1e-6,
        norm_num_groups=8 if tiny else 32,
    )
    return module


def sd15(tiny: bool = False, reads_guidance: bool = False) -> nn.Module:
    """UNet2DConditionModel of SD 1.5: (x [2,4,64,64], t [2], context [2,77,768]).

    reads_guidance: as in LCM checkpoints, timestep_cond [1,256] says the scale of guidance.
    """
    module: nn.Module = diffusers().UNet2DConditionModel(
        sample_size=16 if tiny else 64,
        block_out_channels=(32, 48, 64, 64) if tiny else (320, 640, 1280, 1280),
        layers_per_block=1 if tiny else 2,
        attention_head_dim=4 if tiny else 8,
        cross_attention_dim=24 if tiny else 768,
        norm_num_groups=8 if tiny else 32,
        time_cond_proj_dim=256 if reads_guidance else None,
    )
    return module


class Controlled(nn.Module):
    """A U-Net and a ControlNet (Zhang et al., arXiv 2302.05543) of the same arguments, whose results it adds.

    The ControlNet reads what its embedding makes of a control image, which is the same at every step.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self.control = diffusers().ControlNetModel.from_unet(unet, load_weights_from_unet=False)
        self.control.controlnet_cond_embedding = nn.Identity()

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, control: Tensor) -> Any:
        """What the U-Net returns; `control` `[B, C, h, w]` has the channels of its first layer."""
        read = sample, timestep, encoder_hidden_states
        downs, middle = self.control(*read, control, return_dict=False)
        return self.unet(*read, down_block_additional_residuals=tuple(downs), mid_block_additional_residual=middle)


def sd15_controlled(tiny: bool = False) -> nn.Module:
    """SD 1.5 with a ControlNet: (x [2,4,64,64], t [2], context [2,77,768], control [2,320,64,64])."""
    return Controlled(sd15(tiny))


def sdxl_base(tiny: bool = False) -> nn.Module:
    """UNet2DConditionModel of SDXL base, with arguments as `sdxl`."""
    return sdxl(tiny, (1, 2, 2) if tiny else (1, 2, 10))


def sdxl(tiny: bool = False, layers: tuple[int, int, int] = (1, 1, 2)) -> nn.Module:
    """UNet2DConditionModel of SDXL with so many transformer layers on each grid (published: 1, 2, 10).

    (x [1,4,128,128], t [1], context [1,77,2048], added_cond_kwargs with
    text_embeds [1,1280] and time_ids [1,6]).
    """
    module: nn.Module = diffusers().UNet2DConditionModel(
        sample_size=16 if tiny else 128,
        block_out_channels=(32, 48, 64) if tiny else (320, 640, 1280),
        layers_per_block=1 if tiny else 2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=layers,
        attention_head_dim=(2, 4, 4) if tiny else (5, 10, 20),
        cross_attention_dim=24 if tiny else 2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8 if tiny else 256,
        projection_class_embeddings_input_dim=80 if tiny else 2816,
        norm_num_groups=8 if tiny else 32,
    )
    return module

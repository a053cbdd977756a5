"""The pocket model's autoencoder: it starts as a linear reduction of the picture, and training adds the rest."""

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D

from lib.color import WHITE_D65, XYZ_TO_LINEAR_SRGB, to_float
from lib.files import progress
from lib.latents import batch_rows, step_generator
from lib.training import run_settings, train


def make_autoencoder(size):
    """AutoencoderKL of 0.9 M parameters that shrinks a photo by 4 to 4 latent channels; plain convolutions only."""
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=size,
        scaling_factor=1.0,
    )
    return start_linear(vae)


CARRIED, LEVEL, SHIFT = 16, 8.0, 6.0  # channels that carry the picture; their fixed companions; where SiLU is straight
OPPONENT = torch.tensor(
    [[0.45, 0.9, 0.15], [1.9, -1.9, 0], [-0.95, -0.95, 1.9]]
)  # R, G, B to signals of like deviation


@torch.no_grad()
def start_linear(vae):
    """Set an autoencoder's weights so that it reduces and enlarges the picture linearly; training adds the rest.

    From random weights, it takes hours to tell red from green: a* is a small difference of large numbers. Here
    the first latents are opponent signals (light, red-green, blue-yellow) of 4x4 px, scaled alike, so that a diffusion
    model's squared error weighs colour as much as light. The first 16 channels hold (x, -x, LEVEL, -LEVEL) for each
    of four signals, so that group normalisation, ruled by LEVEL, scales x by a constant. Residual branches start at 0.
    """
    smooth = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 2, 1])) / 16
    mean = torch.zeros(3, 3)
    mean[:2, :2] = 1 / 4
    for block in [module for module in vae.modules() if isinstance(module, ResnetBlock2D)]:
        block.conv2.weight.zero_()
        block.conv2.bias.zero_()
        if block.conv_shortcut is not None:
            carry(block.conv_shortcut, torch.ones(1, 1))
    for block in vae.encoder.down_blocks[:-1]:
        carry(block.downsamplers[0].conv, mean)
    for block in vae.decoder.up_blocks[:-1]:
        carry(block.upsamplers[0].conv, smooth)
    bring_in(vae.encoder.conv_in, OPPONENT)
    read_out(vae.encoder.conv_norm_out, vae.encoder.conv_out, torch.eye(3))
    bring_in(vae.decoder.conv_in, torch.eye(4))
    read_out(vae.decoder.conv_norm_out, vae.decoder.conv_out, torch.linalg.inv(OPPONENT))
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight.copy_(torch.eye(len(conv.weight))[:, :, None, None])
        conv.bias.zero_()
    vae.quant_conv.weight[4:] = 0
    vae.quant_conv.bias[4:] = -6.0  # the posterior starts narrow
    return vae


def carry(conv, kernel):
    """Let the first channels pass a convolution unmixed, each under one kernel."""
    conv.weight[:CARRIED] = 0
    conv.bias[:CARRIED] = 0
    for channel in range(CARRIED):
        conv.weight[channel, channel] = kernel


def bring_in(conv, mixture):
    """Fill the first channels with (x, -x, LEVEL, -LEVEL) for each signal x = mixture @ inputs, at most four."""
    conv.weight[:CARRIED] = 0
    conv.bias[:CARRIED] = 0
    for channel in range(0, CARRIED, 4):
        conv.bias[channel + 2], conv.bias[channel + 3] = LEVEL, -LEVEL
    for signal, row in enumerate(mixture):
        conv.weight[4 * signal, :, 1, 1], conv.weight[4 * signal + 1, :, 1, 1] = row, -row


def read_out(norm, conv, mixture):
    """Outputs = mixture @ the first three signals, each read as the difference of its pair: what SiLU bends cancels."""
    norm.weight[:CARRIED] = LEVEL / 2**0.5
    norm.bias[:CARRIED] = SHIFT
    conv.weight.zero_()
    conv.bias.zero_()
    for signal in range(3):
        conv.weight[:3, 4 * signal, 1, 1] = mixture[:, signal] / 2
        conv.weight[:3, 4 * signal + 1, 1, 1] = -mixture[:, signal] / 2


def torch_lab(image):
    """CIELAB / 100 of sRGB tensors (B, 3, H, W) in [0, 1], differentiable."""
    linear = torch.where(image > 0.04045, ((image.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, image / 12.92)
    white = torch.tensor(WHITE_D65).float()[:, None]
    matrix = (torch.linalg.inv(torch.tensor(XYZ_TO_LINEAR_SRGB)).float() / white).to(image.device)
    xyz = (matrix[..., None, None] * linear[:, None]).sum(2)  # autocast would round a matrix product to bfloat16
    f = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(1)
    return torch.stack([1.16 * y - 0.16, 5 * (x - y), 2 * (y - z)], dim=1)


def autoencoder_loss(vae, pixels, generator, chroma_weight=3.0, kl_weight=3e-4):
    """Error in CIELAB / 100 with a*, b* weighing more than L*, plus the KL term, for pixels in [-1, 1]."""
    posterior = vae.encode(pixels).latent_dist
    latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator).to(vae.device)
    output = vae.decode(latents).sample.float()
    difference = torch_lab(output / 2 + 0.5) - torch_lab(pixels / 2 + 0.5)
    error = (difference.abs() + 10 * difference.square()).mean(dim=(0, 2, 3))
    kl = posterior.kl().mean() / latents[0].numel()
    return error[0] + chroma_weight * error[1:].mean() + (output - pixels).square().mean() + kl_weight * kl


def train_autoencoder(dataset, profile, folder, crop=64):
    """Stage 1: the autoencoder, on random crops of all training pictures."""
    images = np.stack([np.asarray(image) for image in progress(dataset["image"], desc="decoding")])

    def loss_of_step(vae, step, part):
        rng = np.random.default_rng((profile.training.train_seed, step))
        rows = batch_rows(len(images), profile.training.train_batch_size, step, profile.training.train_seed)
        corners = rng.integers(images.shape[1] - crop + 1, size=(len(rows), 2))
        crops = [images[row, y : y + crop, x : x + crop] for row, (y, x) in zip(rows, corners, strict=True)]
        pixels = torch.from_numpy(np.stack(crops[part])).permute(0, 3, 1, 2).float() / 127.5 - 1
        return autoencoder_loss(vae, pixels.to(vae.device), step_generator(profile.training.train_seed, step))

    settings = run_settings(profile, dataset=dataset._fingerprint)
    vae, precision = make_autoencoder(profile.data.resolution), profile.model.mixed_precision
    return train(vae, loss_of_step, profile.training, precision, folder, settings)


def set_scaling_factor(vae, images):
    """Set the autoencoder's scaling factor so that the latents of PIL pictures have unit deviation."""
    pixels = torch.from_numpy(np.stack([to_float(image) for image in images])).permute(0, 3, 1, 2) * 2 - 1
    with torch.no_grad():
        deviation = vae.encode(pixels.to(vae.device)).latent_dist.mean.std()
    vae.register_to_config(scaling_factor=1 / float(deviation))
    return vae

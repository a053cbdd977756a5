"""The recipe of the two systems without a prompt, `make baselines`: both are trained on the pocket model's photos.

classification: class rebalancing as in Zhang, Isola, Efros 2016; gan: a patch discriminator as in Isola et al. 2017.
"""

from functools import partial

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lib import ROOT
from lib.baselines import AB_SCALE, FOLDER, bins, load_baseline, look, make_network, predict
from lib.color import srgb_to_lab, to_float
from lib.colorize import errors_of
from lib.dataset import build_dataset, pick_across_categories
from lib.files import progress, write_text
from lib.latents import batch_rows, step_generator
from lib.models import pick_device
from lib.pocket_model.goals import KNOWN_PHOTOS
from lib.pocket_model.training_pictures import make_dataset, run_recipe
from lib.profiles import get_profile
from lib.report import render
from lib.training import read_losses, run_settings, save_model, train

NEIGHBOURS, SIGMA = 5, 5.0  # how many bins share a colour, width of their weights
REBALANCE = 0.5
L1_WEIGHT = 100.0
STAGE = dict(train_steps=10_800, train_batch_size=16, learning_rate=3e-4, lr_scheduler="cosine", lr_warmup_steps=100)
STAGE |= dict(ema_decay=0.995, checkpoint_every=250, log_every=10)
N_CROPS = 12_000


def soft_bins(ab):
    """Each colour (N, 2) shared among its nearest bins: indices and weights, (N, 5) each."""
    distance, index = torch.cdist(ab, bins()).topk(NEIGHBOURS, largest=False)
    weights = torch.exp(-(distance**2) / (2 * SIGMA**2)) + 1e-12
    return index, weights / weights.sum(dim=1, keepdim=True)


def rarity_weights(ab):
    """The weight of every bin, (Q,): rare colours weigh more; one on the mean over the given colours (N, 2)."""
    index, weights = soft_bins(ab)
    share = torch.zeros(len(bins())).index_add_(0, index.ravel(), weights.ravel()) / len(ab)
    near = torch.exp(-(torch.cdist(bins(), bins()) ** 2) / (2 * (SIGMA * 2) ** 2))
    smooth = (near / near.sum(dim=1, keepdim=True)) @ share
    weight = 1 / ((1 - REBALANCE) * smooth / smooth.sum() + REBALANCE / len(share))
    return weight / (weight * share).sum()


def classification_loss(network, planes, ab, rarity):
    """Cross-entropy against the shared bins of the true colours, weighted by the rarity of the nearest bin."""
    scores = look(network, planes).float().log_softmax(dim=1).permute(0, 2, 3, 1).flatten(0, 2)
    index, weights = soft_bins(ab.permute(0, 2, 3, 1).reshape(-1, 2))
    entropy = -(scores.gather(1, index) * weights).sum(dim=1)
    return (entropy * rarity[index[:, 0]]).mean()


class Pix2Pix(nn.Module):
    """Generator (L* to a*, b*) and patch discriminator, trained in one step: each has its own loss and parameters."""

    def __init__(self, size):
        super().__init__()
        self.generator = make_network(size, 2)
        widths = (18, 64, 128, 256)
        layers = []
        for before, after, stride in zip(widths, widths[1:], (2, 2, 1), strict=False):
            layers += [nn.Conv2d(before, after, 4, stride, 1), nn.GroupNorm(8, after), nn.LeakyReLU(0.2)]
        self.discriminator = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 1))

    def judge(self, planes, ab, frozen=False):
        """How true each patch of a*, b* (in [-1, 1]) looks beside its L*; frozen: without gradient to the judge."""
        seen = torch.cat([F.pixel_unshuffle(planes, 4), ab], dim=1)
        if not frozen:
            return self.discriminator(seen)
        held = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        return torch.func.functional_call(self.discriminator, held, (seen,))


def gan_loss(model, planes, ab):
    """Least-squares GAN loss of both parts, plus the generator's L1 error in a*, b*."""
    real, fake = ab / AB_SCALE, look(model.generator, planes).tanh()
    guess, truth = model.judge(planes, fake.detach()), model.judge(planes, real)
    judged = (guess.square().mean() + (truth - 1).square().mean()) / 2
    fooled = (model.judge(planes, fake, frozen=True) - 1).square().mean()
    return judged + fooled + L1_WEIGHT * (fake - real).abs().mean()


def small_colors(dataset):
    """L* in [0, 1] (N, 1, H, W) and a*, b* (N, 2, H / 4, W / 4) of a data set's photos, half precision."""
    planes, colors = [], []
    for image in progress(dataset["image"], desc="photos in CIELAB"):
        lab = srgb_to_lab(to_float(image))
        quarter = (lab.shape[1] // 4, lab.shape[0] // 4)
        planes.append(lab[None, ..., 0] / 100)
        colors.append(cv2.resize(lab[..., 1:], quarter, interpolation=cv2.INTER_AREA).transpose(2, 0, 1))
    return torch.from_numpy(np.array(planes, np.float16)), torch.from_numpy(np.array(colors, np.float16))


def error_over_gray(colorize, rows):
    """Mean CIEDE2000 of what `colorize` makes of data-set rows, over that of the photos left gray."""
    truths = [srgb_to_lab(to_float(image)) for image in rows["image"]]
    gray = [truth * [1, 0, 0] for truth in truths]
    labs = [np.dstack([lab[..., 0], ab]) for lab, ab in zip(gray, colorize(rows["conditioning_image"]), strict=True)]
    return np.mean(errors_of(labs, truths)) / np.mean(errors_of(gray, truths))


def train_baselines(pictures, overrides, folder=ROOT / "build/baselines", target=FOLDER):
    """Train both systems on photos without cut-outs or recolouring, each resumed from its checkpoint, and ship them."""
    profile = get_profile("pocket", **{**STAGE, **overrides})
    splits = build_dataset(profile.replace(build=str(folder)))
    photos = {"known": pick_across_categories(splits["train"], KNOWN_PHOTOS), "new": splits["validation"]}
    data = make_dataset(pictures, folder / "dataset", N_CROPS, profile.data.resolution, cutouts=False, recolor=False)
    planes, colors = small_colors(data)
    torch.manual_seed(profile.training.train_seed)
    rarity = rarity_weights(colors.permute(0, 2, 3, 1).reshape(-1, 2)[::37].float())
    losses = {"classification": lambda network, *batch: classification_loss(network, *batch, rarity), "gan": gan_loss}
    size, precision = profile.data.resolution, profile.model.mixed_precision
    models = {"classification": make_network(size, len(bins())), "gan": Pix2Pix(size)}
    for system, model in models.items():

        def loss_of_step(model, step, part, system=system):
            rows = batch_rows(len(planes), profile.training.train_batch_size, step, profile.training.train_seed)
            flip = torch.rand(1, generator=step_generator(profile.training.train_seed, step)) < 0.5
            batch = [tensor[rows][part].float() for tensor in (planes, colors)]
            return losses[system](model, *([tensor.flip(-1) for tensor in batch] if flip else batch))

        settings = run_settings(profile, dataset=data._fingerprint, system=system)
        trained = train(model.to(pick_device()), loss_of_step, profile.training, precision, folder / system, settings)
        network = trained.generator if system == "gan" else trained
        save_model(network.half().cpu(), target / system)
        hours = float(read_losses(folder / system, profile.training.train_steps)[-1]["seconds"]) / 3600
        facts = {"steps": profile.training.train_steps, "batch": profile.training.train_batch_size, "hours": hours}
        colorize = partial(predict, system, load_baseline(system, target))
        facts |= {split: error_over_gray(colorize, rows) for split, rows in photos.items()}
        write_text(render("baseline_card", system=system, **facts), target / system / "README.md")


if __name__ == "__main__":
    run_recipe(train_baselines, "lib.baselines_model.recipe", "Train the systems that take no prompt.")

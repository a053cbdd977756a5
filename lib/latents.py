"""What a training step is made from: the cache of latents and embeddings, a step's rows and its random numbers."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from lib.annotator import conditioning_image
from lib.files import hash_of, new_folder, progress
from lib.models import encode_prompts, hash_of_weights

LATENT_FILES, PROMPT_FILES = ("latents_mean", "latents_std", "gray"), ("prompt_index", "embeddings")


@dataclass
class LatentCache:
    """Memory-mapped training data: one row a training picture, one row of `embeddings` a different prompt.

    `latents_mean`, `latents_std`: (N, C, h, w) float16, scaled; `gray`: (N, H, W) uint8; `maps`: those of the
    annotator, (N, K, h, w) float16, or None; `prompt_index`: (N,) into `embeddings`: (prompts, tokens, width) float16,
    whose row 0 is the empty prompt.
    """

    latents_mean: np.ndarray
    latents_std: np.ndarray
    gray: np.ndarray
    prompt_index: np.ndarray
    embeddings: np.ndarray
    key: dict  # what it was made from
    maps: np.ndarray | None = None

    def __len__(self):
        return len(self.latents_mean)

    def batch(self, rows, generator, prompt_dropout=0.0):
        """Latents sampled anew (B, C, h, w), embeddings (B, T, D), conditioning images (B, channels, H, W)."""
        mean, std = (torch.from_numpy(part[rows]).float() for part in (self.latents_mean, self.latents_std))
        latents = mean + std * torch.randn(mean.shape, generator=generator)
        prompts = torch.from_numpy(self.prompt_index[rows].astype(np.int64))
        prompts[torch.rand(len(rows), generator=generator) < prompt_dropout] = 0
        embeddings = torch.from_numpy(self.embeddings[prompts.numpy()]).float()
        gray = torch.from_numpy(self.gray[rows]).float().div(255)[:, None]
        maps = None if self.maps is None else torch.from_numpy(self.maps[rows]).float()
        return latents, embeddings, conditioning_image(gray, maps)


def build_cache(dataset, prompts, pipeline, folder):
    """Encode the pictures of a data set (columns `image`, `conditioning_image`) and a prompt for each, once.

    Latents and prompts stand apart in `folder`, each whole or not at all under a name that says what it was made from:
    runs with the same photos and autoencoder share the latents, whatever their prompts.
    """
    of_latents = {
        "dataset": dataset._fingerprint,
        "vae": hash_of_weights(pipeline.vae),
        "scaling_factor": pipeline.vae.config.scaling_factor,
        "annotator": pipeline.annotator.key,
    }
    prompts = list(prompts)
    of_prompts = {
        "prompts": hash_of(prompts),
        "text_encoder": hash_of_weights(pipeline.text_encoder),
        "max_tokens": pipeline.tokenizer.model_max_length,
    }
    latents = _made_once(folder, "latents", of_latents, lambda part: _write_latents(dataset, pipeline, part))
    embedded = _made_once(folder, "prompts", of_prompts, lambda part: _write_prompts(prompts, pipeline, part))
    paths = [*(latents / f"{name}.npy" for name in LATENT_FILES), *(embedded / f"{name}.npy" for name in PROMPT_FILES)]
    maps = np.load(latents / "maps.npy", mmap_mode="r") if pipeline.annotator.key else None
    return LatentCache(*(np.load(path, mmap_mode="r") for path in paths), of_latents | of_prompts, maps)


def _made_once(folder, name, key, make):
    """The folder `name-<hash of key>` in a folder, made by `make(folder)` where it is not there yet."""
    target = folder / f"{name}-{hash_of([key])}"
    if not target.exists():
        with new_folder(target) as partial:
            make(partial)
            (partial / "key.json").write_text(json.dumps(key))
    return target


@torch.no_grad()
def _write_latents(dataset, pipeline, folder, batch_size=16):
    vae, maps = pipeline.vae, {}
    for start in progress(range(0, len(dataset), batch_size), desc="latents"):
        part = dataset[start : start + batch_size]
        pixels = pipeline.image_processor.preprocess(part["image"]).to(vae.device, vae.dtype)
        posterior = vae.encode(pixels).latent_dist
        gray = torch.from_numpy(np.stack([np.asarray(i.convert("L")) for i in part["conditioning_image"]]))
        arrays = {
            "latents_mean": (posterior.mean * vae.config.scaling_factor).half(),
            "latents_std": (posterior.std * vae.config.scaling_factor).half(),
            "gray": gray,
        }
        if pipeline.annotator.key:
            arrays["maps"] = pipeline.annotator.maps(gray[:, None].float() / 255).half()
        for name, array in arrays.items():
            if name not in maps:
                maps[name] = _allocate(
                    folder / f"{name}.npy", (len(dataset), *array.shape[1:]), array.cpu().numpy().dtype
                )
            maps[name][start : start + len(array)] = array.cpu().numpy()


def _write_prompts(prompts, pipeline, folder, batch_size=64):
    unique = ["", *sorted(set(prompts) - {""})]
    position = {prompt: index for index, prompt in enumerate(unique)}
    np.save(folder / "prompt_index.npy", np.array([position[prompt] for prompt in prompts], np.int32))
    embeddings = None
    for start in progress(range(0, len(unique), batch_size), desc="prompts"):
        part = encode_prompts(unique[start : start + batch_size], pipeline).half().cpu().numpy()
        if embeddings is None:
            embeddings = _allocate(folder / "embeddings.npy", (len(unique), *part.shape[1:]), part.dtype)
        embeddings[start : start + len(part)] = part


def _allocate(path, shape, dtype):
    """A new memory-mapped array whose whole space on the disk is taken; a disk too small for it is a ValueError.

    Without this the file has holes, and a full disk shows only hours later as a crash of the process (SIGBUS).
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if not hasattr(os, "posix_fallocate"):  # macOS
        return array
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free / 1e9
        raise ValueError(
            f"{path.parent}: no room for {path.name} ({array.nbytes / 1e9:.1f} GB, {free:.1f} free; {error.strerror}): "
            "free some, or pass -p build FOLDER"
        ) from None
    return array


def batch_rows(n, batch_size, step, seed):
    """The rows of one step: every epoch is a new permutation of all rows, fixed by the seed."""
    epoch_rows = [
        np.random.default_rng((seed, epoch)).permutation(n)
        for epoch in range(step * batch_size // n, ((step + 1) * batch_size - 1) // n + 1)
    ]
    offset = step * batch_size % n
    return np.sort(np.concatenate(epoch_rows)[offset : offset + batch_size])


def step_generator(seed, step):
    """A CPU generator that depends on the seed and the step alone."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


class Batches:
    """A step's batch by its number, made in a thread while the step before it is trained; pinned for a GPU."""

    def __init__(self, cache, config):
        self.cache, self.config = cache, config
        on_gpu = torch.cuda.is_available()
        device = {"initializer": torch.cuda.set_device, "initargs": [torch.cuda.current_device()]} if on_gpu else {}
        self.thread, self.ahead = ThreadPoolExecutor(1, **device), {}  # a thread would begin on the first GPU

    def __call__(self, step):
        """What `LatentCache.batch` gives for a step, and the generator that drew it, for the draws to follow.

        May be asked for the same step again, and gives the same.
        """
        for number in (step, step + 1):
            if number not in self.ahead:
                self.ahead[number] = self.thread.submit(self._make, number)
        self.ahead = {number: made for number, made in self.ahead.items() if number >= step}
        batch, state = self.ahead[step].result()
        return batch, torch.Generator().set_state(state)

    def _make(self, step):
        config = self.config
        generator = step_generator(config.train_seed, step)
        rows = batch_rows(len(self.cache), config.train_batch_size, step, config.train_seed)
        batch = self.cache.batch(rows, generator, config.prompt_dropout)
        if torch.cuda.is_available():
            batch = [part.contiguous().pin_memory() for part in batch]
        return batch, generator.get_state()

"""`make bench`: ratios of our way to the usual one, alternating in one run, medians of pairs; `reports/benchmark.csv`."""

import argparse
import multiprocessing
import resource
import subprocess
import sys
import time
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pandas as pd
import psutil
import torch
from diffusers import StableDiffusionControlNetPipeline
from PIL import Image
from skimage.color import lab2rgb, rgb2lab
from skimage.transform import resize
from tqdm import tqdm

from lib import ROOT
from lib.files import write_text
from lib.inference import sample
from lib.models import add_controlnet, load_base, load_controlnet
from lib.photo import Colorizer
from lib.photo.formats import Photo
from lib.photo.full_resolution import color_functions, paint, reduce_lightness, reduced_plane
from lib.profiles import get_profile
from lib.regions import WORKING_PX
from lib.report import markdown_table
from tests.bench.training import bench_training, make_row, peak_bytes

PAIRS = 5


def gray_photo(height, width):
    """A synthetic gray photo: shapes, a ramp and grain, uint8 (H, W)."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    shapes = 128 + 100 * np.sin(x * 9 / width) * np.cos(y * 7 / height)
    return (shapes + np.random.default_rng(0).normal(0, 5, shapes.shape)).clip(0, 255).astype(np.uint8)


def cpu_seconds(action):
    """CPU seconds of all threads that an action takes."""
    started = time.process_time()
    action()
    return time.process_time() - started


def compare(name, ours, reference, pairs=PAIRS):
    """A row of the benchmark: our action and the reference take turns, after one warm-up each."""
    ours(), reference()
    times = [(cpu_seconds(ours), cpu_seconds(reference)) for _ in tqdm(range(pairs), desc=name)]
    return make_row(name, times, "CPU s")


def stock_pipeline(base, profile):
    """What diffusers makes of the same weights and sampler, without anything of ours."""
    ours = add_controlnet(base, load_controlnet(profile.training.initial_controlnet, base.unet))
    controlnet = load_controlnet(profile.training.initial_controlnet, base.unet).eval()
    parts = {**base.components, "controlnet": controlnet, "scheduler": ours.scheduler}
    stock = StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    return ours, stock


def bench_sampler(ours, stock, profile):
    """Sampling steps of the pocket model: the picture's embedding computed once, against at every step."""
    picture = Image.fromarray(gray_photo(profile.data.resolution, profile.data.resolution)).convert("RGB")

    def steps(pipeline):
        generator = torch.Generator().manual_seed(0)
        pipeline("a red wall", image=picture, num_inference_steps=20, generator=generator, output_type="latent")

    return compare("sampler_step", lambda: steps(ours), lambda: steps(stock))


def bench_photo(stock, profile):
    """One megapixel: the network at its own size and guided enlargement, against the network at the photo's size."""
    pixels = gray_photo(1024, 1024)
    photo, colorizer = Photo(pixels, None, b"", None, []), Colorizer("pocket")

    def whole():
        picture = Image.fromarray(pixels).convert("RGB")
        generator = torch.Generator().manual_seed(0)
        steps, scale = profile.sampling.num_inference_steps, profile.sampling.guidance_scale
        stock("a red wall", image=picture, num_inference_steps=steps, guidance_scale=scale, generator=generator)

    return compare("photo_1mp", lambda: colorizer(photo, "a red wall"), whole)


def bench_merge():
    """Twelve megapixels: enlarging a*, b* under the photo and joining them to its L*, against OpenCV's own conversion."""
    pixels = gray_photo(3000, 4000)
    plane = reduce_lightness(pixels, (96, 128))
    ab = 12 * np.dstack([np.sin(plane / 20), np.cos(plane / 30)])
    lab = np.dstack([plane, ab]).astype(np.float32)

    def opencv():
        wide = cv2.resize(lab, (4000, 3000))
        wide[..., 0] = pixels / np.float32(2.55)
        cv2.cvtColor(wide, cv2.COLOR_LAB2RGB)

    def ours():
        fine = reduced_plane(pixels, WORKING_PX)
        paint(pixels, color_functions(plane, [ab], fine, np.ones((1, *fine.shape), np.float32)))

    return compare("merge_12mp", ours, opencv)


def peak_megabytes(way):
    """The peak memory of a fresh process that colorizes twelve megapixels, above what it held with the model loaded."""
    colorizer = Colorizer("pocket")
    small, large = (Photo(gray_photo(*size), None, b"", None, []) for size in ((300, 400), (3000, 4000)))

    def scikit_image(photo):
        gray = [Image.fromarray(photo.pixels).resize((128, 128)).convert("RGB")]
        output = sample(colorizer.pipeline, gray, ["red"], [0], **vars(colorizer.profile.sampling))
        wide = resize(rgb2lab(output[0]), photo.pixels.shape)
        wide[..., 0] = photo.pixels / 2.55
        return lab2rgb(wide)

    action = {"ours": lambda photo: colorizer(photo, "red"), "scikit-image": scikit_image}[way]
    action(small)
    held = psutil.Process().memory_info().rss
    action(large)
    return (peak_bytes() - held) / 1e6


def bench_memory():
    """Peak memory of a photo of twelve megapixels above that of the model, against scikit-image's enlargement."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return make_row("memory_12mp", [[pool.apply(peak_megabytes, [way]) for way in ("ours", "scikit-image")]], "MB")


def bench_start():
    """The command on half a megapixel, in a fresh process, against one that imports what the notebooks do."""
    everything = "import lib.colorize, lib.metrics, lib.figures; from diffusers import AutoPipelineForText2Image; "
    with TemporaryDirectory() as folder:
        Image.fromarray(gray_photo(600, 800)).save(f"{folder}/photo.png")
        command = "from lib.photo.command import main; main()"

        def seconds(code):
            before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
            subprocess.run([sys.executable, "-c", code, f"{folder}/photo.png", "--overwrite"], check=True)
            return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before

        seconds(command)  # a warm-up
        times = [(seconds(command), seconds(everything + command)) for _ in range(PAIRS)]
    return make_row("start_to_picture", times, "CPU s")


def read_few_steps(profile):
    """CIEDE2000 on validation at the default number of steps against 50, from the model card's table."""
    table = (
        pd.read_csv(ROOT / "lib/pocket_model/sampling.csv")
        .query("guidance == @profile.sampling.guidance_scale")
        .drop_duplicates("steps")
    )
    ours, reference = (table.set_index("steps")["detailed"][n] for n in (profile.sampling.num_inference_steps, 50))
    return make_row("few_steps", [(ours, reference)], "CIEDE2000")


def measure_all(full_size, gpu):
    """All rows of the benchmark."""
    profile = get_profile("pocket")
    ours, stock = stock_pipeline(load_base(profile.model), profile)
    return [
        bench_start(),
        bench_sampler(ours, stock, profile),
        bench_merge(),
        bench_memory(),
        read_few_steps(profile),
        bench_photo(stock, profile),
        *bench_training("pocket", PAIRS, steps=6),
        *(bench_training("sd21", PAIRS if gpu else 1, steps=6 if gpu else 2) if full_size or gpu else []),
    ]


def main():
    """The command behind `make bench`."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Ratios of our way to the usual one.")
    help_text = "also training at Stable Diffusion 2.1-base's shapes, as on a GPU by itself: 16 GB and some minutes"
    parser.add_argument("--sd21", action="store_true", help=help_text)
    parser.add_argument("--start", action="store_true", help="only start_to_picture; the other rows stay")
    options, gpu = parser.parse_args(), torch.cuda.is_available()
    rows = [bench_start()] if options.start else measure_all(options.sd21, gpu)
    path = ROOT / "reports/benchmark.csv"
    new = pd.DataFrame(rows)
    if path.exists():
        old = pd.read_csv(path)
        new = pd.concat([old[~old["name"].isin(new["name"])], new])
    write_text(new.to_csv(index=False, float_format="%.4g"), path)
    print(markdown_table(pd.read_csv(path)))


if __name__ == "__main__":
    main()

"""Tables and the written report, every number from the files that the notebooks wrote."""

import math
import os
import platform
import subprocess
from importlib.metadata import version

import pandas as pd
import torch

from lib import ROOT
from lib.figures import LABELS
from lib.files import write_text
from lib.profiles import PROFILES
from lib.prompts import COLOR_PATTERN, PROMPT_LEVELS
from lib.runs import DIFFERENCES, FACTORS
from lib.statistics import (
    HIGHER_IS_BETTER,
    components,
    differences_by_seed,
    interval_width,
    obedience,
    side_by_side,
    with_all_seeds,
)

FORMATS = {
    **dict.fromkeys(("psnr", "ciede2000", "ab_error", "chroma_ratio", "effect_size", "power_of_five"), "{:.2f}"),
    **dict.fromkeys(("ssim", "ssim_luma"), "{:.3f}"),
    **dict.fromkeys(("hue_error", "colorfulness", "colorfulness_difference", "colorfulness_error"), "{:.1f}"),
    **dict.fromkeys(("mean", "low", "high"), "{:+.3f}"),
    **dict.fromkeys(("p", "p_holm"), "{:.2g}"),
    **dict.fromkeys(("improved", "share", "hue_share", "obeyed"), "{:.0%}"),
    **dict.fromkeys(("single sample", "mean of seeds", "best seed (oracle)"), "{:.2f}"),
    **dict.fromkeys(("chroma ratio, single", "chroma ratio, mean"), "{:.2f}"),
    **dict.fromkeys(("fid", "clip_score"), "{:.1f}"),
    **dict.fromkeys(("kid", "lpips"), "{:.4f}"),
    **dict.fromkeys(("photos_needed", "steps"), "{:.0f}"),
}


def provenance(profile):
    """Versions, device and revision that a result rests on, by name."""
    packages = ("torch", "diffusers", "transformers", "datasets", "scikit-image", "lib")
    versions = {name: version("prompted-colorization" if name == "lib" else name) for name in packages}
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "profile": profile.name,
        "python": platform.python_version(),
        **versions,
        "device": "cuda" if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores",
        "commit": commit.stdout.strip() or "unknown",
    }


def markdown_table(table):
    """A table in Markdown; numbers as `FORMATS` says for their column, a missing one as a dash."""
    lines = ["| " + " | ".join(name.replace("_", " ") for name in table) + " |", "|" + "---|" * len(table.columns)]
    for _, row in table.iterrows():
        cells = ("-" if value != value else FORMATS.get(name, "{}").format(value) for name, value in row.items())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


REPORT = """# Vague against detailed prompts: {profile}

A student study of 2024 reported, after five photos, that vague prompts colorize badly and detailed ones well. Do
detailed prompts colorize better than vague ones, and if so, why?

## Answer

{answer}

## Method

{n} test photos of {categories} kinds were colorized at {resolution} px from their lightness alone under {levels} kinds of
prompt, with the same noise for each{counts} (sampling steps: {steps}, guidance: {guidance}). Then the photo's own L\\*
was joined to the output's a\\*b\\*. A photo is one observation: its values are averaged over seeds, differences are taken
photo by photo, and photos are resampled for the 95 % intervals (BCa bootstrap; Student's below eight photos). p is
Wilcoxon's signed-rank test, corrected by Holm's method over all contrasts and metrics. "Better" and "worse" are said where the
interval leaves zero out and the corrected p is below 0.05. The ladder of prompts:

| prompt | example |
|---|---|
{ladder}

{writers}

## What the words do

![Contrasts](effects.png)

*Paired differences with 95 % intervals; filled: p < 0.05 after Holm's correction. PSNR and SSIM gain to the right,
CIEDE2000 to the left.*

{effects}

`effect size`: mean difference over its standard deviation (Cohen's d); `improved`: share of photos that got better;
`photos needed`: how many would show such an effect in 80 % of studies (paired t-test, 5 % level), and `power of five`: in what
share of studies five photos would, both for means over a photo's seeds and only where the interval leaves zero out; a signed-rank
test of five photos can never reach 5 %, whatever they show. Rows: `effects.csv`; of `a - b`, the rows
`metrics.query('system == "controlnet" and prompt_level == "a" and merged')` and the like for b (`gray` is a system), joined by photo.

{questions}

![One line a photo](pairs.png)

*CIEDE2000 of every test photo under the vague and the detailed prompt; black: the mean.*

![By category](categories.png)

*Detailed - vague in CIEDE2000 by kind of photo, with the number of photos (open: fewer than three, no interval); as many
looks as kinds, not corrected for.
Rows: `categories.csv`.*

{obedience}
## Beside no model at all

![Systems](systems.png)

*Mean over the {shared} photos that every prompt and system has, with its 95 % interval, after the merge. Squares take no prompt. These intervals are not paired: whether
two rows differ is told by the contrasts above, not by whether their bars overlap.*

{systems}

`mean_color`: one flat colour, the mean of the training photos; `true_mean_color`: that of the very photo, and
`half_chroma`: the true a\\*b\\* halved, both oracles; `autoencoder`: the true photo through the autoencoder, about the best that
this base can reach; `seed_mean`, where all these photos have every seed: a\\*b\\* averaged over the seeds. {baselines}`ssim` is on the three sRGB channels,
`ssim luma` on L\\*; `ab error` is the mean distance in a\\*b\\*; `hue error`, in degrees, is taken where both pictures have a chroma of 10, which is
`hue share` of the pixels where the photo has: a timid system is judged on few. `chroma ratio` is mean chroma over that of the photos.
Colourfulness less the photos' is given in both ways in use: `difference` of the means, and mean `error` of the absolute
differences. Rows: `metrics.query('system == "gray"')` and so on.

{sets}## Before and after the merge

![Before and after](merge.png)

*Open: the model's own picture. Filled: its a\\*b\\* on the photo's L\\*. Over the same {shared} photos.*

{merge}

Detailed - vague is {before} before the merge and {after} after it.

## Luck

![Seeds](seeds.png)

*Below each photo, bright where its seeds disagree about a\\*b\\* (detailed prompt, standard deviation, one scale).*

{seed_gain}

CIEDE2000 of one sample, of the mean over a photo's seeds in a\\*b\\*, and of the seed that happened to be best, which nobody can pick without the
true photo; averaging also pales, as the chroma ratios tell. Rows: `seeds.csv`.{one_step}

{variance}

Components of the variance of CIEDE2000 over these prompts, photos and seeds (the prompts' share depends on which prompts were
asked). Rows: `variance.csv`. Both tables are of the {seeded} photos that have every seed under every prompt.{seed_share}

{runs}## The study's claims

{claims}

Values are means over the {shared} photos under every prompt; differences are of all photos under both.

![Vague prompt](study_vague.png)
![Detailed prompt](study_detailed.png)

*The study's two charts: five photos, taken in turn from the categories; dashed: what the study reported; whiskers: lowest and
highest seed; black: the photo left gray. With five photos the smallest p that a two-sided sign test can give is 0.0625. Rows:
`metrics.query('system == "controlnet" and merged')`, the first five image_id.*

## Pictures

![Best, middle and worst](sheet.png)

*Of the {shared} photos under every prompt: the two that gained most from the detailed one, two in the middle, the two that lost most
(CIEDE2000, mean over seeds; shown is seed 0).*

## What the model was to reach

These goals were set for the shipped pocket model before it was trained, so that the question has an answer on it; other models
are held to the same.

{goals}

## Limits

One true photo is the measure, though other colours could be as plausible, and per-pixel metrics punish a vivid wrong
colour more than none. The detailed captions carry part of the answer{gray_limit}. Photos of one subject (`subject` in the data set) are resampled as if they were
independent. The photos are {resolution} px squares.

## Made with

{provenance}
"""
OBEDIENCE = """## Does it obey?

![Steering](steering.png)

*One photo a row, taken in turn from the categories; only the colour word changes.*

![Share that took the colour](obeyed.png)

Over the test photos with one dominant thing, "a *word* *thing*" gave the thing the named colour in **{reached:.0%}** of the cases in
which its lightness allows it (mean over {photos} photos, {cases} cases, 95 % interval {low:.0%} to {high:.0%}); a picture made for
another word would have passed {chance:.0%} of the time. The box tells nothing of the rest of the photo, which often takes some of the colour
too. Passed: of the steering words' hues the named one is nearest to
that of the mean colour in a box on the thing, with a chroma of 10 or more (brown and orange have one hue and count as
one); for white, a chroma below 8. Rows: `steering.csv`, `steering.query("allowed")`.

"""
SETS = """## As sets

{table}

Of seed 0, after the merge, at 256 px: FID and KID against the same photos, LPIPS (AlexNet), and the CLIP score of picture and
prompt. FID falls as photos grow in number, so that only rows of as many photos compare. Rows: `sets.csv`.

"""
OTHER_RUNS = """## Other runs

How runs compare that were trained otherwise: [runs.md]({}runs.md).

"""
RUNS = """# The runs: {profile}

Between its three runs the study changed the base model, the learning rate and the photos, some of them together. Here are its runs and
those that change one thing at a time, all on the same {n} test photos, in CIEDE2000 (left gray: {gray:.2f}). {stand_ins}

{facts}

![Runs](runs.png)

*Mean over photos and its 95 % interval under the vague and the detailed prompt. Intervals are of single runs: for differences see
the next chart. Lines: the photos left gray, each in one colour, its own mean, and through the autoencoder; tick: all in the mean
colour of the run's training photos.*

{results}

Differences with their 95 % intervals, not corrected for asking often. Under the vague prompt {vague}, under the detailed prompt {detailed}.
`seeds`: the most that a photo has; `chroma ratio`: mean chroma under the detailed prompt over that of the photos; `obeyed`: share of the
things that took the named colour where their lightness allows it{things}. Rows: `runs.csv`.

![What changed](runs_effects.png)

*Left: what detail adds in each run. Right: second run less first, for pairs that differ in one thing (photos and epochs count as one), and
for the study's steps and diffusers' recipe, where two may; filled: p < 0.05 after Holm's correction over all {rows} rows. For
"detailed - vague", below zero means that detail adds more.*

{changes}

"Not told apart" is not "equal": there may be a difference that {n} photos, or the correction, hide.

{effects}

Each run was trained once: the intervals are over photos, and say nothing of what another training seed would give. Photos and epochs always
change together. Generic training prompts hold the very vague prompt of the test; runs on captions never saw it. Rows:
`run_effects.csv`.

![Pictures of the runs](runs_sheet.png)

*The first test photos under the detailed prompt, by run.*
"""
BASELINES = """`classification` (after Zhang, Isola, Efros 2016) and `gan` (after pix2pix, Isola et al. 2017) are small models
that ship with the code. They were trained at {size} px on the training split of `data_cards/pocket_photos` and on pictures like them, whatever
photos a run trains on{enlarged}. They take no prompt, so they compare with the vague row, and no word can help them. """
ONE_STEP = """

With one sampling step from pure noise the model answers with its mean guess, which hardly depends on the noise: small
numbers here say little about sampling with more steps."""
DETAILED = {  # by the source of the test photos: where the captions come from
    "folder": "`detailed` was written by people who saw the colours.",
    "coco": "`detailed` is one of COCO's captions, which people wrote who saw the colours: the one with most colour words.",
    "flowers": "`detailed` names the kind of flower and no colour.",
}
OBJECT = {
    "folder": "`object` names things without colour words.",
    "coco": "`object` is the detailed caption without its colour words.",
    "flowers": "`object` is the same sentence as `detailed`.",
}
QUESTIONS = {
    "detailed - object": "**What does a description with colours add to one without?** Detailed against object captions",
    "detailed - wrong_color": "**How much hangs on the colour words?** The same sentence with right against wrong colours, "
    "of which a part is what wrong words spoil (see wrong colours against vague)",
    "detailed - gray_caption": "**What does the writer gain by seeing the colours?** Detailed against gray captions",
    "auto_caption - vague": "**What does a captioner give that sees the colours?** Automatic captions against vague",
    "gray_caption - vague": "**What can be had without looking at the answer?** Gray captions against vague",
    "wrong_color - vague": "**Does it take wrong words too?** (Then they make it worse.) Wrong colours against vague",
    "other_photo - vague": "**Does any long prompt do?** Another photo's caption against vague",
}


def writers_in_words(profile, prompts):
    """Where each level of the ladder comes from, in sentences; `prompts`: {level: the prompts of the test photos}."""
    source = (profile.of_test_photos or profile).source
    gray = "`gray_caption` was written by people who saw only the gray photo."
    if profile.captioner:
        gray = f"`gray_caption` was written by a captioning network, {profile.captioner}, that was shown only the gray photo."
    colorless = sum(not COLOR_PATTERN.search(text) for text in prompts["detailed"])
    unchanged = f" ({colorless} of {len(prompts['detailed'])} have none and stay as they are)" if colorless else ""
    said = {
        "detailed": DETAILED[source],
        "gray_caption": gray,
        "auto_caption": f"`auto_caption` was written by {profile.captioner}, which was shown the colour photo.",
        "object": OBJECT[source],
        "wrong_color": f"`wrong_color` is the detailed caption with every colour word changed by a rule{unchanged}.",
        "other_photo": "`other_photo` is the detailed caption of a photo of another category.",
    }
    return " ".join(text for level, text in said.items() if level in prompts)


def gray_limit(profile, levels):
    """What the gray captions can and can't tell, as the end of a sentence; "" where there are none."""
    if "gray_caption" not in levels:
        return ""
    doubt = "their writers may have known a famous place"
    if profile.captioner:
        doubt = "the captioner may have learned from captions of these very photos"
    return f"; gray captions tell what is left without it, though {doubt}"


def counts_in_words(ours):
    """How many seeds each photo has, and how many photos each prompt, where these differ."""
    seeds, photos = ours.groupby("image_id")["seed"].nunique(), ours.groupby("prompt_level")["image_id"].nunique()
    said = f", {seeds.max()} {'seeds' if seeds.max() > 1 else 'seed'}"
    if seeds.min() < seeds.max():
        said += f" for {(seeds == seeds.max()).sum()} photos and {seeds.min()} for the others"
    if photos.min() < photos.max():
        said += f"; {', '.join(f'{n} photos under `{level}`' for level, n in photos.items() if n < photos.max())}"
    return said


def guidance_in_words(profile):
    """The guidance scale, and on which steps it acts where not on all."""
    share = profile.guidance_share
    return f"{profile.guidance_scale}" + (f" on the first {share:.0%} of the steps" if share < 1 else "")


def words_of(profile, ours):
    """What the method and the limits of a report say of its prompts and samples, by name."""
    by_level = ours.drop_duplicates(["prompt_level", "image_id"]).groupby("prompt_level")
    prompts = {level: list(rows["prompt"]) for level, rows in by_level}
    return {
        "counts": counts_in_words(ours),
        "guidance": guidance_in_words(profile),
        "writers": writers_in_words(profile, prompts),
        "gray_limit": gray_limit(profile, prompts),
    }


def questions_of(profile):
    """`QUESTIONS`, where a captioner wrote the gray captions with the words that fit it."""
    machine = "**What do people who see the colours say that a captioner who doesn't see them can't?** Detailed against gray captions"
    return QUESTIONS | ({"detailed - gray_caption": machine} if profile.captioner else {})


def baselines_in_words(profile):
    """What the two systems without a prompt were trained on, which does not depend on the run."""
    size = PROFILES["pocket"].resolution
    enlarged = f"; here they see photos of {profile.resolution} px, a size that they were not trained on"
    return BASELINES.format(size=size, enlarged=enlarged if profile.resolution != size else "")


def write_report(profile, metrics, tables, rows, runs=False):
    """Write `report.md`, every number from the metrics and the tables of notebook 06 by name; `rows`: the test photos.

    `runs`: whether there is a `runs.md` to point to.
    """
    effects, summary, steering = tables["effects"], tables["summary"], tables["steering"]
    ours = metrics[metrics["system"] == "controlnet"]
    first = ours[ours["image_id"] == rows["image_id"][0]].drop_duplicates("prompt_level")
    asked = {name: text for name, text in questions_of(profile).items() if name in set(effects["contrast"])}
    before, after = (main_effects(part) for part in (tables["before_merge"], effects))
    text = REPORT.format(
        profile=profile.name,
        n=len(rows),
        categories=ours["category"].nunique(),
        levels=ours["prompt_level"].nunique(),
        resolution=profile.resolution,
        steps=profile.num_inference_steps,
        **words_of(profile, ours),
        answer=answer(effects),
        ladder="\n".join(f"| `{row.prompt_level}` | {row.prompt or '(nothing)'} |" for row in first.itertuples()),
        effects=markdown_table(effects),
        questions="\n\n".join(f"{text}: {in_words(effects, name)}." for name, text in asked.items()),
        obedience=OBEDIENCE.format(**obedience(steering)) if len(steering) else "",
        systems=markdown_table(summary.query("merged").drop(columns="merged")),
        baselines=baselines_in_words(profile) if "gan" in set(summary["system"]) else "",
        sets=SETS.format(table=markdown_table(tables["sets"])) if "sets" in tables else "",
        merge=markdown_table(before_and_after(summary)),
        before=before,
        after=after,
        seed_gain=markdown_table(tables["seeds"]),
        one_step=ONE_STEP if profile.num_inference_steps == 1 else "",
        variance=markdown_table(tables["variance"]),
        shared=side_by_side(metrics)["image_id"].nunique(),
        seeded=with_all_seeds(metrics)["image_id"].nunique(),
        seed_share=seed_share(metrics, len(rows)),
        claims=markdown_table(claims(summary, effects)),
        goals=markdown_table(tables["goals"]) if "goals" in tables else "Not asked: no things to steer.",
        runs=OTHER_RUNS.format("" if profile.reports_dir == profile.reports_home else "../") if runs else "",
        provenance=", ".join(f"{name} {value}" for name, value in provenance(profile).items()),
    )
    write_text(text, profile.reports_dir / "report.md")


def write_runs(profile, table, effects):
    """Write `runs.md` at the profile's home, from `runs.table_of_runs` and `runs.effects_of_factors`."""
    lines, results = [], table[["run", "seeds", "vague", "detailed"]].round(2)
    for (changed, pair), part in effects.groupby(["changed", "runs"], sort=False):
        said = [
            f"{row.prompt} {estimate(row.mean, row.low, row.high)} **{word_for(row)}**" for row in part.itertuples()
        ]
        said[-1] = said[-1].replace("**better**", "**larger gain**").replace("**worse**", "**smaller gain**")
        lines.append(f"- {changed} ({pair}): {'; '.join(said)}")
    for name in DIFFERENCES:
        ends = table[[name, f"{name}, low", f"{name}, high"]].itertuples(index=False)
        results[name] = [estimate(*row) for row in ends]
    text = RUNS.format(
        profile=profile.name,
        n=table["photos measured"].min(),
        gray=(table["vague"] - table["vague - gray"]).mean(),
        stand_ins=profile.stand_ins,
        facts=markdown_table(table[["run", *FACTORS]].drop(columns=["batch", "seed"])),
        results=markdown_table(results.assign(chroma_ratio=table["chroma_ratio"], obeyed=table["obeyed"])),
        vague=beside_gray(table, "vague"),
        detailed=beside_gray(table, "detailed"),
        things=f" ({things:.0f} things that all runs coloured)" if (things := table["things measured"].max()) else "",
        rows=len(effects),
        changes="\n".join(lines),
        effects=markdown_table(effects.drop(columns="metric")),
    )
    write_text(text, profile.reports_home / "runs.md")


def estimate(mean, low, high):
    """A difference with its interval, as text."""
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def beside_gray(table, prompt):
    """In words, how many runs are clearly better or worse than the photos left gray under a prompt."""
    better, worse = (table[f"{prompt} - gray, high"] < 0).sum(), (table[f"{prompt} - gray, low"] > 0).sum()
    return f"{better} of {len(table)} runs are clearly better than gray and {worse} clearly worse"


def seed_share(metrics, photos):
    """In words, how much of the variance of detailed - vague is the seed's, and what more seeds would give; "": one seed."""
    differences = differences_by_seed(metrics, "detailed", "vague")
    with_all, seeds = differences.shape
    if min(with_all, seeds) < 2 or not differences.any():
        return ""
    between, within = components(differences)
    text = f" In detailed - vague the seed has {within / (between + within):.0%} of the variance of a single sample of a photo"
    if with_all == photos:
        return f"{text} (CIEDE2000)."
    widths = [interval_width(between, within, photos, seeds, n) for n in (photos, with_all)]
    return f"{text} (CIEDE2000): {seeds} seeds for all {photos} photos would make its interval {widths[0] / widths[1]:.2f} times as wide."


def main_effects(effects):
    """Detailed - vague in every metric, with its interval, as a list in words."""
    rows = effects[effects["contrast"] == "detailed - vague"].itertuples()
    return ", ".join(
        f"{row.mean:+.3f} [{row.low:+.3f}, {row.high:+.3f}] in {LABELS[row.metric].split(' (')[0]}" for row in rows
    )


def before_and_after(summary):
    """The metrics of every prompt before and after the merge, side by side."""
    ours = summary[summary["system"] == "controlnet"].pivot(index="prompt_level", columns="merged", values=list(LABELS))
    ours = ours.loc[[level for level in PROMPT_LEVELS if level in ours.index]].reset_index()
    names = {False: "before", True: "after"}
    ours.columns = [
        " ".join([metric, names[merged]]) if metric in LABELS else metric for metric, merged in ours.columns
    ]
    return ours.round(3)


def answer(effects):
    """The answer in words that the intervals allow, metric by metric, and beside the photo left gray."""
    main = effects[effects["contrast"] == "detailed - vague"].set_index("metric")
    if main["low"].isna().any():
        return f"**Too few photos to tell**: {main['n'].min():.0f}, or no difference between them."
    return (
        f"Detailed against vague, in {main['n'].min():.0f} photos: {in_words(effects, 'detailed - vague')}. "
        f"{main.loc['ciede2000', 'improved']:.0%} of the photos improved in CIEDE2000.\n\n"
        f"Detailed against the same photo left gray: {in_words(effects, 'detailed - gray')}."
    )


def in_words(effects, contrast):
    """Each metric's effect as **better**, **worse** or **not told apart**, with its interval."""
    parts = []
    for row in effects[effects["contrast"] == contrast].itertuples():
        name = LABELS[row.metric].split(" (")[0]
        word, clear = word_for(row), row.low > 0 or row.high < 0
        doubt = f", but p after correction is {row.p_holm:.2g}" if clear and word == "not told apart" else ""
        parts.append(f"**{word}** in {name} ({row.mean:+.3f}, 95 % interval {row.low:+.3f} to {row.high:+.3f}{doubt})")
    return "; ".join(parts)


def word_for(row):
    """What an effect's interval and corrected p allow to say: better, worse, or not told apart."""
    if not (row.p_holm < 0.05 and (row.low > 0 or row.high < 0)):
        return "not told apart"
    return "better" if (row.low > 0) == HIGHER_IS_BETTER[row.metric] else "worse"


def claims(summary, effects):
    """The study's claims beside what was found here, and beside the photos left gray."""
    by_row = summary.set_index(["system", "prompt_level", "merged"])
    gray = by_row.loc[("gray", "", True)]
    rows = [
        {"the study": f"detailed prompts colorize better, in {LABELS[row.metric].split(' (')[0]}",
         "here": f"{row.mean:+.3f} [{row.low:+.3f}, {row.high:+.3f}]", "before the merge": "", "left gray": "",
         "stands": {"better": "yes", "worse": "no, the reverse"}.get(word_for(row), "not shown")}
        for row in effects[effects["contrast"] == "detailed - vague"].itertuples()
    ]  # fmt: skip
    ranges = {
        "vague: PSNR 15 to 20 dB": ("vague", "psnr", 15, 20),
        "vague: SSIM 0.6 to 0.8": ("vague", "ssim", 0.6, 0.8),
        "vague: CIEDE2000 over 10": ("vague", "ciede2000", 10, math.inf),
        "detailed: PSNR over 20 dB": ("detailed", "psnr", 20, math.inf),
        "detailed: SSIM over 0.8": ("detailed", "ssim", 0.8, math.inf),
        "detailed: CIEDE2000 about 8 (within 1)": ("detailed", "ciede2000", 7, 9),
    }
    for text, (level, metric, low, high) in ranges.items():
        before, ours = (by_row.loc[("controlnet", level, merged), metric] for merged in (False, True))
        holds, gray_too = low <= ours <= high, low <= gray[metric] <= high
        rows.append({"the study": text, "here": f"{ours:.2f}", "before the merge": f"{before:.2f}",
                     "left gray": f"{gray[metric]:.2f}",
                     "stands": ("yes, but so does gray" if gray_too else "yes") if holds else "no"})  # fmt: skip
    return pd.DataFrame(rows)

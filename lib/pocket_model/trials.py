"""What the parts of the last stages do, in short trainings without them: `make pocket-trials`, for the model card."""

import pandas as pd

from lib import ROOT
from lib.dataset import build_dataset
from lib.files import write_table
from lib.latents import build_cache
from lib.models import add_controlnet, load_base
from lib.pocket_model.goals import IN_TRIALS, measure_new
from lib.pocket_model.grounding import Grounding
from lib.pocket_model.painted_parts import make_painted
from lib.pocket_model.recipe import stage_profile, write_card
from lib.pocket_model.training_pictures import make_dataset, run_recipe
from lib.profiles import get_profile
from lib.training import train_controlnet

TRIALS = {  # the stage after which a trial begins, how its pictures are made, whether attention is trained beside
    "the recipe": ("words", make_painted, True),
    "attention trained before, not beside": ("words", make_painted, False),
    "attention trained beside, not before": ("restart", make_painted, True),
    "attention not trained": ("restart", make_painted, False),
    "attention not trained, pictures of the first stages": ("restart", make_dataset, False),
}
STEPS, PICTURES, SEEDS = 150, 3000, 3


def run_trials(pictures, overrides, stages=ROOT / "build/pocket_model", target=ROOT / "lib/pocket_model"):
    """Train every trial with SEEDS seeds, measure it on the validation photos, and write the table into the card.

    The trials go on from the ControlNets that `build_pocket_model` left in the folder `stages`; a ValueError says if it
    hasn't run.
    """
    folder = stages.parent / "pocket_trials"
    pocket = get_profile("pocket", build=str(folder))
    starts = {stage: stages / stage / "controlnet" for stage, *_ in TRIALS.values()}
    for start in starts.values():
        if not start.exists():
            raise ValueError(f"there is no {start}, from which trials go on: make pocket-model")
    base, rows = load_base(pocket.model), build_dataset(pocket)["validation"]
    made, table = {}, []
    for make_pictures in dict.fromkeys(make for _, make, _ in TRIALS.values()):
        dataset = make_pictures(pictures, folder / make_pictures.__name__, PICTURES, pocket.data.resolution)
        made[make_pictures] = dataset, build_cache(dataset, dataset["prompt"], base, folder / "cache")
    for seed in range(SEEDS):
        for name, (stage, make_pictures, beside) in TRIALS.items():
            dataset, cache = made[make_pictures]
            short = {"train_steps": STEPS, "lr_warmup_steps": 25, "checkpoint_every": STEPS, "train_seed": seed}
            profile = stage_profile("parts", **{**short, "initial_controlnet": str(starts[stage]), **overrides})
            loss = Grounding(dataset, base.tokenizer, profile.training).loss_for if beside else None
            place = folder / f"{name}, seed {seed}".replace(", ", " ").replace(" ", "_")
            controlnet = train_controlnet(base, cache, profile, place, rows.select([0]), more_loss_for=loss)
            found = measure_new(add_controlnet(base, controlnet), rows, pocket.sampling, ("detailed",))
            table.append({"trial": name, "seed": seed} | {measure: found[measure] for measure in IN_TRIALS})
            write_table(pd.DataFrame(table), target / "trials.csv")
    write_card(target)


if __name__ == "__main__":
    run_recipe(run_trials, "lib.pocket_model.trials", "Fill the table of trials of the model card.")

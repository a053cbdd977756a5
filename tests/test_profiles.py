"""Profiles: overrides by name, and errors that list what is known."""

import pytest

from lib.profiles import get_profile, profiles_to_run
from lib.study import RUNS, TABLE


def test_overrides_are_converted_to_the_type_of_the_field():
    profile = get_profile("pocket", n_images="12", guidance_scale=3, initial_controlnet="")
    assert (profile.study.n_images, profile.sampling.guidance_scale, profile.training.initial_controlnet) == (
        12,
        3.0,
        "",
    )
    assert isinstance(profile.sampling.guidance_scale, float)
    assert profile.training.train_steps == 60


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("phone", {}, "unknown profile 'phone': known are pocket, l4"),
        ("pocket", {"n_image": 3}, "unknown profile field 'n_image': known are .*n_images"),
        ("pocket", {"n_images": "many"}, "'n_images' takes int, not 'many'"),
        ("pocket", {"n_images": 2.5}, "'n_images' takes int"),
        ("pocket", {"n_images": -1}, "'n_images' takes int"),
        ("pocket", {"guidance_scale": "inf"}, "'guidance_scale' takes float"),
        ("pocket", {"run": None}, "'run' takes str, not None"),
        ("pocket", {"run": "../mine"}, "run '../mine' is no plain name"),
        ("pocket", {"run": "a/b"}, "run 'a/b' is no plain name"),
        ("pocket", {"prompt_policy": "loud"}, "'prompt_policy' is one of generic, captions, mix"),
    ],
)
def test_errors_name_the_thing_and_what_is_known(name, overrides, message):
    with pytest.raises(ValueError, match=message):
        get_profile(name, **overrides)


def test_the_study_s_runs_are_those_of_its_text():
    runs = [get_profile("l4", run=name) for name in ("study_1", "study_2", "study_3")]
    assert ["1-5" in p.model.base_model or "2-1-base" in p.model.base_model for p in runs] == [True] * 3
    assert ["v1-5" in p.model.base_model for p in runs] == [True, False, False]
    assert all(p.model.base_revision and p.model.base_mirrors for p in runs)
    assert [(p.data.source, p.data.test_source) for p in runs] == [
        ("flowers", "coco"),
        ("flowers", "coco"),
        ("coco", ""),
    ]
    assert [(p.training.learning_rate, p.training.train_epochs) for p in runs] == [(1e-5, 10), (1e-4, 10), (1e-4, 3)]
    assert {p.data.prompt_policy for p in runs} == {"generic"}
    assert runs[2] == get_profile("l4")


def test_a_run_of_the_table_sets_fields_and_given_ones_win():
    assert get_profile("pocket", run="study_1").model.base_model == "lib/pocket_model/narrow"
    assert get_profile("pocket", run="study_2").model.base_model == "lib/pocket_model"
    assert get_profile("pocket", run="captions_dropout_50").training.prompt_dropout == 0.5
    assert get_profile("pocket", run="study_1", learning_rate="1e-3").training.learning_rate == 1e-3
    short = get_profile("pocket", run="study_1", train_steps="7")
    assert (short.training.train_steps, short.training.train_epochs) == (7, 0)
    mine = get_profile("l4", run="mine")
    assert (mine.folders.run, mine.model.base_model, mine.data.source) == (
        "mine",
        get_profile("l4").model.base_model,
        "coco",
    )
    assert get_profile("pocket", run="") == get_profile("pocket")
    with pytest.raises(ValueError, match="unknown run 'study_4': known are study_1, .*; a name of yours must differ"):
        get_profile("pocket", run="study_4")


def test_which_runs_make_reports_does():
    assert [p.folders.run for p in profiles_to_run("pocket")] == ["default"]
    assert [p.folders.run for p in profiles_to_run("l4")] == ["study_3", "study_1", "study_2", "captions"]
    assert [p.folders.run for p in profiles_to_run("l4", run="captions")] == ["captions"]
    assert [p.folders.run for p in profiles_to_run("pocket", runs="study_1,captions")] == ["study_1", "captions"]
    everything = [p.folders.run for p in profiles_to_run("l4", runs="all")]
    assert set(everything) == set(TABLE)  # one training each
    borrowed = [name for name, run in RUNS.items() if run.controlnet]
    assert borrowed == ["study_3_tcd", "peer_sdxl_light"]
    assert everything[-3:] == ["study_3", *borrowed]  # what a run takes must be there before it
    trained = [name for name, run in RUNS.items() if not run.controlnet]
    assert [p.folders.run for p in profiles_to_run("pocket", runs="all")] == [*trained, "default"]
    seeds = {get_profile("pocket", run=f"study_2{end}").training.train_seed for end in ("", "_seed_1", "_seed_2")}
    assert seeds == {0, 1, 2}
    with pytest.raises(
        ValueError, match="'study_3_tcd' needs a base model that profile 'pocket' lacks: known are study"
    ):
        get_profile("pocket", run="study_3_tcd")
    with pytest.raises(ValueError, match="unknown run 'study_9': known are study_1, .*, or all"):
        profiles_to_run("l4", runs="study_9")


def test_steps_and_guidance_that_are_given_are_not_chosen_anew():
    assert get_profile("l4", num_inference_steps=4).study.steps_to_try == ()
    assert (
        get_profile("l4", num_inference_steps=4).study.guidance_to_try == get_profile("l4").study.guidance_to_try != ()
    )
    assert get_profile("l4", guidance_scale=2.0).study.guidance_to_try == ()


def test_a_run_finds_the_controlnet_that_it_takes():
    trained, taken, peer = (get_profile("l4", run=run) for run in ("study_3", "study_3_tcd", "peer_sdxl_light"))
    assert trained.controlnet_source == trained.folders.controlnet_dir == taken.controlnet_source
    assert taken.folders.run_dir != trained.folders.run_dir
    assert peer.controlnet_source == "nickpai/sdxl_light_custom_caption_output"
    assert (peer.data.source, peer.data.photos) == (trained.data.source, trained.data.photos)
    assert 0 < peer.study.n_images <= trained.study.n_images  # the first of the same photos


def test_own_run_reports_at_home_and_others_below():
    home = get_profile("l4").folders.reports_dir
    assert home.name == "l4"
    assert get_profile("l4", run="study_1").folders.reports_dir == home / "study_1"

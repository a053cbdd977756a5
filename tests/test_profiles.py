"""Profiles: overrides by name, and errors that list what is known."""

import pytest

from lib.profiles import get_profile, profiles_to_run
from lib.study import RUNS


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
    assert get_profile("pocket", run="captions").data.prompt_policy == "captions"
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
    for wrong in ("study_4", "study_11", "captoins"):
        with pytest.raises(
            ValueError, match=f"unknown run '{wrong}': known are study_1, .*; a name of yours must differ"
        ):
            get_profile("pocket", run=wrong)


@pytest.mark.parametrize("name", ["pocket", "l4"])
def test_another_training_seed_of_a_run_has_a_name_that_continues_the_run_s(name):
    own, again = get_profile(name, run="study_2"), get_profile(name, run="study_2_seed_1", train_seed="1")
    assert again == own.replace(run="study_2_seed_1", train_seed=1)
    assert again.folders.run_dir != own.folders.run_dir


def test_which_runs_make_reports_does():
    assert [p.folders.run for p in profiles_to_run("pocket")] == ["default"]
    assert [p.folders.run for p in profiles_to_run("l4")] == ["study_3", "study_1", "study_2", "captions"]
    assert [p.folders.run for p in profiles_to_run("l4", run="captions")] == ["captions"]
    assert [p.folders.run for p in profiles_to_run("pocket", runs="study_1,captions")] == ["study_1", "captions"]
    everything = [p.folders.run for p in profiles_to_run("l4", runs="all")]
    assert everything == ["study_1", "study_2", "captions", "study_3"]  # the profile's own run comes last
    assert [p.folders.run for p in profiles_to_run("pocket", runs="all")] == [*RUNS, "default"]
    with pytest.raises(ValueError, match="unknown run 'study_9': known are study_1, .*, or all"):
        profiles_to_run("l4", runs="study_9")


def test_steps_and_guidance_that_are_given_are_not_chosen_anew():
    assert get_profile("l4", num_inference_steps=4).study.steps_to_try == ()
    assert (
        get_profile("l4", num_inference_steps=4).study.guidance_to_try == get_profile("l4").study.guidance_to_try != ()
    )
    assert get_profile("l4", guidance_scale=2.0).study.guidance_to_try == ()


def test_a_run_takes_the_controlnet_that_is_named():
    trained, taken = get_profile("l4"), get_profile("l4", run="mine", controlnet="me/net")
    assert trained.controlnet_source == trained.folders.controlnet_dir
    assert taken.controlnet_source == "me/net"


def test_own_run_reports_at_home_and_others_below():
    home = get_profile("l4").folders.reports_dir
    assert home.name == "l4"
    assert get_profile("l4", run="study_1").folders.reports_dir == home / "study_1"

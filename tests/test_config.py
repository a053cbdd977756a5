"""The configuration: precedence, types, and errors that name the field and what it takes."""

import pytest

from lib.config import PROFILES, RUNS, configs_to_run, get_config


def test_values_are_converted_to_the_type_of_the_field():
    config = get_config("pocket", n_images="12", guidance_scale=3, initial_controlnet="", train_categories="a,b")
    assert (config.n_images, config.initial_controlnet, config.train_categories) == (12, None, ("a", "b"))
    assert isinstance(config.guidance_scale, float)
    assert get_config("pocket", n_images="none", set_metrics="true").values("n_images", "set_metrics") == {
        "n_images": None,
        "set_metrics": True,
    }


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("phone", {}, "unknown profile 'phone': did you mean pocket, l4?"),
        ("pocket", {"n_image": 3}, "unknown field 'n_image': did you mean n_images"),
        ("pocket", {"n_images": "many"}, "field 'n_images' takes a valid integer.*, not 'many'"),
        ("pocket", {"n_images": -1}, "'n_images' takes greater than 0, not -1"),
        ("pocket", {"guidance_scale": "inf"}, "'guidance_scale' takes a finite number"),
        ("pocket", {"steps_to_try": "1,x"}, "'steps_to_try' takes a valid integer.*, not 'x'"),
        ("pocket", {"prompt_policy": "loud"}, "'prompt_policy' takes 'generic', 'captions' or 'mix', not 'loud'"),
        ("pocket", {"run": "../mine"}, "run '../mine' is no plain name"),
        ("l4", {"run": "study_4"}, "unknown run 'study_4': did you mean study_"),
    ],
)
def test_errors_name_the_field_and_what_it_takes(name, overrides, message):
    with pytest.raises(ValueError, match=message) as raised:
        get_config(name, **overrides)
    assert "\n" not in str(raised.value)


def test_defaults_give_way_to_the_profile_then_the_run_then_what_is_given():
    by_layer = [get_config("pocket"), get_config("l4"), get_config("l4", run="study_1")]
    assert [config.train_epochs for config in by_layer] == [5.65, 3, 10]
    assert get_config("l4", run="study_1", train_epochs="2").train_epochs == 2
    assert get_config("pocket", run="") == get_config("pocket")
    mine = get_config("l4", run="mine")
    assert mine.replace(run="study_3", train_epochs=3, learning_rate=1e-4, prompt_dropout=0.05) == get_config("l4")


def test_the_runs_of_the_2024_study():
    runs = [get_config("l4", run=name) for name in ("study_1", "study_2", "study_3")]
    assert ["v1-5" in config.base_model for config in runs] == [True, False, False]
    assert all(config.base_revision for config in runs)
    assert [(config.source, config.test_source) for config in runs] == [("flowers", "coco")] * 2 + [("coco", None)]
    assert [(config.learning_rate, config.train_epochs) for config in runs] == [(1e-5, 10), (1e-4, 10), (1e-4, 3)]
    assert {config.prompt_policy for config in runs} == {"generic"}
    assert runs[2] == get_config("l4")


@pytest.mark.parametrize("name", PROFILES)
def test_a_name_that_continues_a_run_s_has_its_fields(name):
    own, again = get_config(name, run="study_2"), get_config(name, run="study_2_seed_1", train_seed="1")
    assert again == own.replace(run="study_2_seed_1", train_seed=1)
    assert again.run_dir != own.run_dir


@pytest.mark.parametrize(
    ("name", "given", "runs"),
    [
        ("pocket", {}, ["default"]),
        ("l4", {}, ["study_3", "study_1", "study_2", "captions"]),
        ("l4", {"run": "captions"}, ["captions"]),
        ("pocket", {"runs": "study_1,captions"}, ["study_1", "captions"]),
        ("l4", {"runs": "all"}, ["study_1", "study_2", "captions", "study_3"]),  # the profile's own comes last
        ("pocket", {"runs": "all"}, [*RUNS["pocket"], "default"]),
    ],
)
def test_which_runs_make_reports_does(name, given, runs):
    assert [config.run for config in configs_to_run(name, **given)] == runs


def test_steps_and_guidance_are_chosen_only_if_they_are_not_set():
    chosen, given = get_config("l4"), get_config("l4", num_inference_steps=4)
    assert (chosen.num_inference_steps, chosen.guidance_scale) == (10, 7.5)  # until notebook 04 has chosen
    assert (given.num_inference_steps, given.steps_to_try) == (4, (4,))
    assert given.guidance_to_try == chosen.guidance_to_try != (7.5,)
    assert get_config("l4", guidance_scale=2.0).guidance_to_try == (2.0,)

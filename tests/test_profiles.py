"""Profiles: overrides by name, and errors that list what is known."""

import pytest

from lib.profiles import PROFILES, get_profile


def test_overrides_are_converted_to_the_type_of_the_field():
    profile = get_profile("pocket", n_images="12", guidance_scale=3, initial_controlnet="")
    assert (profile.n_images, profile.guidance_scale, profile.initial_controlnet) == (12, 3.0, "")
    assert isinstance(profile.guidance_scale, float)
    assert profile.train_steps == PROFILES["pocket"].train_steps


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
        ("pocket", {"prompt_policy": "loud"}, "'prompt_policy' is one of generic, captions, mix"),
    ],
)
def test_errors_name_the_thing_and_what_is_known(name, overrides, message):
    with pytest.raises(ValueError, match=message):
        get_profile(name, **overrides)

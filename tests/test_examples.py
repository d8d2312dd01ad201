"""The examples run, at tiny size; their data is what they say."""

import importlib

import numpy as np
import pytest

NAMES = ("image_cnn", "text_embedding", "series_lstm")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_example_trains_and_draws(name, tmp_path, capsys):
    example = importlib.import_module(f"examples.{name}")
    picture = tmp_path / "picture.png"
    ours, default, best = example.run(picture, epochs=2, seeds=1)
    assert [f.optimizer.split(",")[0] for f in (ours, default, best)] == ["RNNprop", "Adam", "Adam"]
    assert best.lowest_validation_loss <= default.lowest_validation_loss
    for fit in (ours, default, best):
        assert fit.history["loss"].shape == fit.history["val_loss"].shape == (2,)
        assert np.isfinite(fit.history["loss"]).all()
    assert ours.history["loss"][1] < ours.history["loss"][0]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 100_000
    table = capsys.readouterr().out
    assert f"| RNNprop | {ours.last('loss'):.4f} | {ours.last('val_loss'):.3f} |" in table


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_example_s_data_is_numbers_and_its_validation_data_apart(name):
    (x, y), (validation_x, validation_y) = importlib.import_module(f"examples.{name}").load()
    assert np.isfinite(x).all()
    assert np.isfinite(validation_x).all()
    assert (len(x), len(validation_x)) == (len(y), len(validation_y))
    assert len(x) > 2 * len(validation_x) > 200
    seen = {sample.tobytes() for sample in x}
    # Texts of a few words can be alike in two files.
    assert sum(sample.tobytes() in seen for sample in validation_x) <= 0.1 * len(validation_x)

"""The main job at tiny size: meta-training, export, `from_pretrained`, `model.fit`, the picture."""

import dataclasses

import numpy as np
from safetensors.numpy import load_file

from trainer import demo
from trainer.config import preset

TINY = dataclasses.replace(
    preset("demo"), preprocess="4", lstm="4", plain_tape=True, iterations=100, episode_steps=4, period=2,
    checkpoint_every=50,
)  # fmt: skip


def test_the_whole_path_from_digits_to_a_trained_keras_model(tmp_path, capsys):
    fits = demo.run(TINY, str(tmp_path), epochs=2, seeds=range(1))
    ours = fits[0]
    assert ours.optimizer == "RNNprop, made just now"
    assert [f.optimizer for f in fits[-3:]] == ["Adam, 0.0001", "Adam, 0.001", "Adam, 0.01"]
    for fit in fits:
        assert fit.history["loss"].shape == (2,)
        assert np.isfinite(fit.history["loss"]).all()
        assert 0 <= fit.last("val_accuracy") <= 1
        assert fit.seconds > 0
    # Adam at its default rate learns; the picture and the table are about real runs.
    assert fits[-2].history["loss"][1] < fits[-2].history["loss"][0]
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
    weights = load_file(tmp_path / "weights" / "model.safetensors")
    trained = load_file(tmp_path / "run" / "checkpoint-00000100.safetensors")
    assert all(np.array_equal(weights[name], trained[f"network.{name}"]) for name in weights)
    assert f"| RNNprop, made just now | {ours.last('loss'):.4f} | {ours.last('val_loss'):.4f} |" in (
        capsys.readouterr().out
    )

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize

import piclip.clip
from piclip.clip.settings import SETTINGS_FILE
from world import fusion_weights


def test_logistic_fit_minimises_the_penalised_likelihood():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(300, 3))
    target = (1 / (1 + np.exp(-(inputs @ [1.0, -2.0, 0.5] - 0.7))) + rng.uniform(0, 0.2, 300)) / 1.2

    def objective(weights):
        logits = inputs @ weights[:3] + weights[3]
        likelihood = target * np.logaddexp(0, -logits) + (1 - target) * np.logaddexp(0, logits)
        return likelihood.sum() + (weights**2).sum() / 2

    slow = minimize(objective, np.zeros(4), tol=1e-12).x
    fast = fusion_weights.fit_logistic(torch.from_numpy(inputs), torch.from_numpy(target))
    np.testing.assert_allclose(fast.numpy(), slow, atol=1e-4)


def test_command_replaces_only_the_fitted_settings(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "model"
    shutil.copytree(Path(piclip.clip.__file__).parent / "builtin", folder)
    before = json.loads((folder / SETTINGS_FILE).read_text())
    unfitted = dict(before, fusion=[0.0] * 5, fusion_many=[0.0] * 5, threshold=0.0)
    (folder / SETTINGS_FILE).write_text(json.dumps(unfitted))
    monkeypatch.setattr(sys, "argv", ["fusion_weights", str(folder), "--episodes", "2"])
    fusion_weights.main()
    after = json.loads((folder / SETTINGS_FILE).read_text())
    kept = {name for name, value in after.items() if before[name] == value}
    assert kept >= {
        "image_size",
        "attention_blocks",
        "calibration",
        "ridge",
    }
    assert sum(after["fusion"][:4]) > 0.1  # the maps of a working model speak for the class
    assert sum(after["fusion_many"][:4]) > 0.1
    assert 0 < after["threshold"] < 1
    assert json.loads(capsys.readouterr().out)["threshold"] == after["threshold"]

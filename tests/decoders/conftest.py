"""What the tests of decoders share: reference weights and arrays of the published networks, rebuilt
as their README says; an episode; and the folder of a training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from decoder_runs import saved
from numpy.typing import NDArray
from torch import Tensor, nn

from piclip.datasets.catalogue import open_dataset
from piclip.datasets.few_shot import FewShotView
from piclip.evaluation.predictor import blind

CLASSIFIER_OUTPUTS = (2, 16)


def draw(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    x = rng.standard_normal(shape)
    if len(shape) >= 2:
        value = x * np.sqrt(2 / np.prod(shape[1:]))
        if shape[0] in CLASSIFIER_OUTPUTS and shape[1] >= 256:
            value = value * 0.2
    elif name.endswith(".running_var"):
        value = 1 + 0.2 * np.abs(x)
    elif name.endswith((".running_mean", ".bias")):
        value = 0.1 * x
    elif name.endswith(".bn3.weight"):
        value = 0.2 * (1 + 0.1 * x)
    else:
        value = 1 + 0.1 * x
    return np.asarray(value, dtype=np.float32)


@dataclass
class Golden:
    """One folder of reference arrays; weights of a model are built once and forgotten."""

    folder: Path
    state: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def weights(self, model: str) -> dict[str, Tensor]:
        if model not in self.state:
            description = json.loads((self.folder / f"{model}.json").read_text())
            rng = np.random.default_rng(description["seed"])
            digest = hashlib.sha256()
            tensors = {}
            for name in sorted(description["tensors"]):
                entry = description["tensors"][name]
                if entry["dtype"] == "int64":
                    tensors[name] = torch.zeros((), dtype=torch.int64)
                    continue
                value = draw(name, tuple(entry["shape"]), rng)
                digest.update(value.tobytes())
                tensors[name] = torch.from_numpy(value)
            assert digest.hexdigest() == description["sha256_float32"]
            self.state = {model: tensors}
        return self.state[model]

    def arrays(self, name: str) -> dict[str, NDArray[np.generic]]:
        with np.load(self.folder / f"{name}.npz") as file:
            return dict(file)


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    return Golden(shared / "golden" / "decoders")


@dataclass
class Reference:
    """Compares tensors with the arrays of one file and counts which keys were compared."""

    arrays: dict[str, NDArray[np.generic]]
    compared: set[str] = field(default_factory=set)

    def tensor(self, key: str) -> Tensor:
        array = self.arrays[key]
        return torch.from_numpy(array.astype(np.float32) if array.dtype == np.float16 else array)

    def check(self, key: str, tensor: Tensor, *, atol: float = 5e-5) -> None:
        """Compares a tensor with each form in which ``key`` is stored (see the README)."""
        actual = tensor.detach().numpy()
        forms = [name for name in self.arrays if name == key or name.startswith(f"{key}__")]
        forms += [name for name in self.arrays if name == f"{key}_s4"]
        assert forms, key
        for name in forms:
            stored = self.arrays[name]
            suffix = name.removeprefix(key)
            if suffix == "__shape":
                assert actual.shape == tuple(stored)
            elif suffix == "__chk":
                check_summary(actual, stored, atol)
            else:
                part = actual
                if suffix.startswith("__c"):
                    part = actual[:, :: int(suffix[3:])]
                elif suffix == "_s4":
                    part = actual[..., ::4, ::4]
                assert part.shape == stored.shape, name
                np.testing.assert_allclose(part, stored, rtol=0, atol=atol, err_msg=name)
            self.compared.add(name)

    def rest(self) -> set[str]:
        return {key for key in self.arrays if not key.startswith("in_")} - self.compared


def check_summary(actual: NDArray[np.generic], stored: NDArray[np.generic], atol: float) -> None:
    wide = actual.astype(np.float64)
    summary = [wide.mean(), wide.std(), np.abs(wide).sum(), wide.min(), wide.max()]
    np.testing.assert_allclose(summary[2], stored[2], rtol=1e-5, atol=atol)
    np.testing.assert_allclose(np.delete(summary, 2), np.delete(stored, 2), rtol=0, atol=atol)


@pytest.fixture
def reference(golden: Golden) -> Callable[[str], Reference]:
    return lambda name: Reference(golden.arrays(name))


@dataclass
class Recorder:
    """Keeps inputs and outputs of submodules during a forward pass."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)

    def watch(self, module: nn.Module) -> Recorder:
        for name, child in module.named_modules():
            child.register_forward_hook(
                lambda _, given, out, name=name: self.keep(name, given, out)
            )
        return self

    def keep(self, name: str, given: tuple[Tensor, ...], out: object) -> None:
        if isinstance(out, Tensor):
            self.inputs[name] = given[0]
            self.outputs[name] = out


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def view():
    dataset = open_dataset("scenes", train_images=60, val_images=60)
    return FewShotView(dataset, fold=0, split="val", classes="novel")


@pytest.fixture(scope="session")
def episode(view):
    return blind(view.load(view.episode(0, 0, 3)))


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder of a PFENet with the priors of PI-CLIP; to be read only."""
    return saved(tmp_path_factory.mktemp("runs") / "piclip")

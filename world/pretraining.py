"""A backbone for the drawn world, trained on what images show as a whole.

It is to scenes what a network of ImageNet is to photographs: it knows all classes by the labels of
images, novel ones included, and no mask.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from piclip.datasets.dataset import Split, count_pixels
from piclip.datasets.scenes.scene_dataset import SceneDataset
from piclip.decoders.backbones import build_backbone
from piclip.decoders.published import export_published
from piclip.decoders.views import normalise
from piclip.io.outputs import atomic_path, write_json

SEED = 1
"""Of the scenes: no training and no test of the comparison draws them."""
SCENES, HELD_OUT = 6000, 1000
EPOCHS, BATCH, RATE = 10, 32, 2e-3


def pretrain(
    file: Path, record: Path, width: int, *, scenes: int = SCENES, epochs: int = EPOCHS
) -> None:
    """Trains the backbone ``tiny`` and writes its weights, and what it has learned.

    Args:
        file: The weights, by the names of semseg's ResNets, as safetensors.
        record: A JSON file: what it learned from, and its mean average precision on other scenes.
        width: Inner channels of its first stage.
        scenes: How many it learns from.
        epochs: How often it sees each.
    """
    from safetensors.torch import save_file

    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    backbone = build_backbone("tiny", width=width)
    classes = len(SceneDataset().class_names)
    network = nn.Sequential(backbone, _Pool(), nn.Linear(backbone.channels[-1], classes))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    dataset = SceneDataset(train_images=scenes, val_images=HELD_OUT, seed=SEED)
    images, labels = _read(dataset, "train")
    total = epochs * (scenes // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=total)
    network.train()
    for _ in range(epochs):
        order = rng.permutation(scenes)
        for start in range(0, scenes // BATCH * BATCH, BATCH):
            chosen = torch.from_numpy(order[start : start + BATCH])
            seen = images[chosen]
            if rng.random() < 0.5:
                seen = seen.flip(-1)
            loss = F.binary_cross_entropy_with_logits(network(_pixels(seen)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    precision = _average_precision(network.eval(), *_read(dataset, "val"))
    write_json(
        {"scenes": scenes, "epochs": epochs, "width": width, "held_out_map": round(precision, 3)},
        record,
    )
    print(f"backbone: mean average precision {precision:.3f} on {HELD_OUT} held-out scenes")
    with atomic_path(file) as path:
        save_file({k: v.contiguous() for k, v in export_published(backbone).items()}, path)


class _Pool(nn.Module):
    """The mean of the deepest map."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        """(B, C) of maps (B, C, h, w)."""
        return maps[-1].mean(dim=(2, 3))


def _read(dataset: SceneDataset, split: Split) -> tuple[Tensor, Tensor]:
    """All images of a split, uint8 (N, 3, H, W), and which classes they show, (N, C)."""
    images, labels = [], []
    for key in dataset.keys(split):
        sample = dataset.sample(key)
        images.append(sample.image.transpose(2, 0, 1))
        pixels = count_pixels(sample.class_map, len(dataset.class_names))
        labels.append(pixels >= dataset.minimum_pixels)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)).float()


def _pixels(images: Tensor) -> Tensor:
    return normalise(images.float() / 255)


@torch.inference_mode()
def _average_precision(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Mean over the classes of the average precision of the network's scores."""
    scores = torch.cat([network(_pixels(part)) for part in images.split(BATCH)]).numpy()
    return float(
        np.mean([_precision(s, y) for s, y in zip(scores.T, labels.numpy().T, strict=True)])
    )


def _precision(scores: NDArray[np.float32], shown: NDArray[np.float32]) -> float:
    hits = shown[np.argsort(-scores, kind="stable")]
    return float((hits * np.cumsum(hits) / np.arange(1, len(hits) + 1)).sum() / hits.sum())

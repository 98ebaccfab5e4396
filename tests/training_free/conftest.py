"""Two tiny untrained towers: a CLIP, and a ViT of another patch size."""

import pytest
import torch
import transformers

from piclip.clip.encoder import Encoder
from piclip.clip.towers import VisualTower


@pytest.fixture(scope="session")
def encoder(model):
    return Encoder.from_pretrained(model, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=48,
        patch_size=12,
    )
    folder = tmp_path_factory.mktemp("vit")
    transformers.ViTModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vit(vit_folder):
    return VisualTower.from_pretrained(vit_folder, device="cpu", dtype="float32")

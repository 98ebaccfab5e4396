"""Folders of small trainings, as `piclip train` leaves them."""

import json

import torch

from piclip.decoders.networks import build_decoder


def trained(folder, clip="builtin"):
    """The folder of a training of a small PFENet; without a CLIP none is recorded."""
    torch.manual_seed(0)
    decoder = build_decoder("pfenet", backbone="tiny", prior="piclip", width=8, scales=[9, 5, 3])
    decoder.save_pretrained(folder / "decoder")
    if clip is not None:
        recipe = {"clip": {"model": clip}, "augmentation": {"size": 41}}
        (folder / "decoder" / "training.json").write_text(json.dumps({"recipe": recipe}))
    return folder

"""A training so small that its steps take hundredths of a second."""

from piclip.training.recipe import Recipe


def tiny_recipe(**changes):
    values = {
        "dataset": {
            "name": "scenes",
            "options": {"train_images": 60, "val_images": 60, "size": 32},
            "keep": True,
        },
        "minimum_pixels": 4,
        "novel_pixels": "background",
        "decoder": {
            "name": "bam",
            "backbone": "tiny",
            "backbone_options": {"width": 2},
            "options": {"width": 4, "base_width": 6, "dilations": [1]},
        },
        "prior": "imagenet",
        "clip": {"model": "builtin", "sees": "plain", "dtype": "float32"},
        "augmentation": {"size": 33},
        "base": {
            "steps": 3,
            "batch": 4,
            "options": {"width": 6},
            "optimizer": {"name": "sgd", "lr": 0.05},
        },
        "episodic": {"steps": 4, "batch": 2, "optimizer": {"lr": 0.01}},
        "validation": {"every": 1, "episodes": 3},
        "device": "cpu",
        "threads": 1,
        "workers": 0,
        "checkpoint_every": 1,
        "log_every": 1,
    }
    return Recipe.model_validate({**values, **changes})

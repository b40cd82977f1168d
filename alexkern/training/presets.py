"""Recipes from papers, as changes of the default settings.

[1] A. Krizhevsky, I. Sutskever, G. Hinton: ImageNet classification with deep convolutional neural networks, NIPS 2012.
"""

from __future__ import annotations

from typing import Any

from alexkern.augmentation import IMAGENET_MEAN

PRESETS: dict[str, dict[str, Any]] = {
    "krizhevsky2012": {
        "model": "alexnet_2012",  # [1], section 3; its initialisation is section 5's
        # [1], section 5: batch 128, momentum 0.9, weight decay 0.0005, learning rate 0.01, divided by 10 whenever the
        # validation error stopped improving, three times; roughly 90 epochs. How long they waited is not said.
        "epochs": 90,
        "batch_size": 128,
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "plateau",
        "decay": 0.1,
        "patience": 5,
        "max_decays": 3,
        "warmup": 0.0,
        "label_smoothing": 0.0,
        "clip": 0.0,
        "dropout": 0.5,  # [1], section 4.2
        # [1], section 2: shorter side 256, central 256 x 256, mean subtracted from values of 0 to 255 and nothing else
        # (here one mean a channel). Section 4.1: random 224 x 224 crops, flips, PCA lighting of deviation 0.1, and
        # ten crops in evaluation.
        "size": 224,
        "resize": 256,
        "crop": "random",
        "flip": 0.5,
        "lighting": 0.1,
        "mean": IMAGENET_MEAN,
        "std": (1 / 255, 1 / 255, 1 / 255),
        "ten_crops": True,
    }
}

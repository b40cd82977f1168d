"""The three AlexNets, their weights files and the preprocessing of their images."""

from alexkern.models.alexnet import (
    MODELS,
    AlexNet,
    AlexNet2012,
    AlexNetSingleTower,
    alexnet,
    alexnet_2012,
    alexnet_single_tower,
)
from alexkern.models.transforms import ImageClassification
from alexkern.models.weights import Weights, read_weights, save_weights

__all__ = [
    "MODELS",
    "AlexNet",
    "AlexNet2012",
    "AlexNetSingleTower",
    "ImageClassification",
    "Weights",
    "alexnet",
    "alexnet_2012",
    "alexnet_single_tower",
    "read_weights",
    "save_weights",
]

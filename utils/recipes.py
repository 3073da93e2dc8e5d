"""The published recipes: defaults of the programs' options, by network and data set."""

from pathlib import Path
from typing import Any

DATASETS = ("SHA", "SHB", "QNRF", "DEMO")

CSRNET = {"hard": "density", "flip": 0.2, "weight_decay": 5e-4, "crops_per_image": 4}
CSRNET_TEACHER = {"epochs": 400, "crop": "0.5", "optimizer": "sgd", "lr": 1e-7}  # Li et al., 2018
CSRNET_STUDENT = {"epochs": 1000, "crop": "0.5:1", "optimizer": "adam", "lr": 1e-4}  # SKT

BL = {  # Ma et al., ICCV 2019
    "hard": "bayesian",
    "flip": 0.5,
    "weight_decay": 1e-4,
    "crops_per_image": 1,
    "epochs": 1000,
    "optimizer": "adam",
}
BL_CROP = {"SHA": "256x256", "QNRF": "512x512"}
BL_TEACHER_LR = {"SHA": 1e-6, "QNRF": 1e-5}
BL_STUDENT_LR = 1e-4  # SKT's for CSRNet: the distillation of BL was never published
POINTS = {
    "SHA": {"boxes": "SHA", "background": 0.1},
    "QNRF": {"boxes": "QNRF", "background": 1.0},
}

# The demonstration: small crops, random weights and a narrow teacher, minutes on a CPU.
DEMO = {
    "epochs": 7,
    "crop": "96x96",
    "crops_per_image": 4,
    "batch_size": 8,
    "cosine": True,
    "weight_decay": 0.0,
    "background": 1.0,
}
DEMO_TEACHER = {"width": "1/3", "init": "kaiming", "optimizer": "adam"}
DEMO_TEACHER_LR = {"csrnet": 5e-4, "bl": 2e-4}
DEMO_STUDENT_LR = 1e-3


def choose_protocol(arch: str, dataset: str) -> str:
    """Returns how a data set's images are counted in the paper of a network."""
    if dataset != "QNRF":
        return "whole"
    return "cells" if arch == "csrnet" else "rescaled"


def teacher_recipe(arch: str, dataset: str) -> dict[str, Any]:
    """Returns the options of a teacher's training."""
    published = _published(dataset)
    recipe = {"width": "1", "init": "imagenet", "out": Path(f"runs/teacher_{arch}")}
    if arch == "csrnet":
        recipe |= CSRNET | CSRNET_TEACHER
    else:
        recipe |= BL | {"lr": BL_TEACHER_LR[published], "crop": BL_CROP[published]}
    demo = DEMO_TEACHER | {"lr": DEMO_TEACHER_LR[arch]}
    return _complete(recipe, arch, dataset, demo)


def student_recipe(arch: str, dataset: str) -> dict[str, Any]:
    """Returns the options of a distillation; BL's is its training's but for the learning rate."""
    recipe = {"out": Path(f"runs/skt_{arch}")}
    if arch == "csrnet":
        recipe |= CSRNET | CSRNET_STUDENT
    else:
        recipe |= BL | {"lr": BL_STUDENT_LR, "crop": BL_CROP[_published(dataset)]}
    return _complete(recipe, arch, dataset, {"lr": DEMO_STUDENT_LR})


def _complete(
    recipe: dict[str, Any], arch: str, dataset: str, demo: dict[str, Any]
) -> dict[str, Any]:
    recipe |= {"protocol": choose_protocol(arch, dataset), "batch_size": 1, "cosine": False}
    recipe |= POINTS[_published(dataset)]
    return recipe | DEMO | demo if dataset == "DEMO" else recipe


def _published(dataset: str) -> str:
    """The data set whose recipe is taken: Part A's where there is no other."""
    return "QNRF" if dataset == "QNRF" else "SHA"

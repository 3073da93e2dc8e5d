"""The published recipes: defaults of the programs' options, by network and data set."""

from pathlib import Path
from typing import Any

DATASETS = ("SHA", "SHB", "QNRF", "DEMO")  # those without a recipe of their own take SHA's

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
BL_TEACHER_LR = {"SHA": 1e-6, "QNRF": 1e-5}
BL_STUDENT_LR = 1e-4  # SKT's for CSRNet: the distillation of BL was never published
BL_CROP = {"SHA": "256x256", "QNRF": "512x512"}
BACKGROUND = {"SHA": 0.1, "QNRF": 1.0}


def choose_protocol(arch: str, dataset: str) -> str:
    """Returns how a data set's images are counted in the paper of a network."""
    if dataset != "QNRF":
        return "whole"
    return "cells" if arch == "csrnet" else "rescaled"


def teacher_recipe(arch: str, dataset: str) -> dict[str, Any]:
    """Returns the options of a teacher's training."""
    key = _recipe_key(dataset)
    own = {"lr": BL_TEACHER_LR[key], "crop": BL_CROP[key]}
    recipe = CSRNET | CSRNET_TEACHER if arch == "csrnet" else BL | own
    return _complete(recipe, arch, dataset, out=Path(f"runs/teacher_{arch}"))


def student_recipe(arch: str, dataset: str) -> dict[str, Any]:
    """Returns the options of a distillation; BL's is its training's but for the learning rate."""
    own = {"lr": BL_STUDENT_LR, "crop": BL_CROP[_recipe_key(dataset)]}
    recipe = CSRNET | CSRNET_STUDENT if arch == "csrnet" else BL | own
    return _complete(recipe, arch, dataset, out=Path(f"runs/skt_{arch}"))


def _complete(recipe: dict[str, Any], arch: str, dataset: str, out: Path) -> dict[str, Any]:
    key = _recipe_key(dataset)
    points = {"boxes": key, "background": BACKGROUND[key]}
    return recipe | points | {"out": out, "protocol": choose_protocol(arch, dataset)}


def _recipe_key(dataset: str) -> str:
    return dataset if dataset in BACKGROUND else "SHA"

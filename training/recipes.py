"""The published recipes and the fast one: defaults of the programs' options."""

from pathlib import Path
from typing import Any

RECIPES = ("published", "fast")
DATASETS = ("SHA", "SHB", "QNRF", "DEMO", "MINE")

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

PLAIN = {  # what the published recipes do without
    "batch_size": 1,
    "cosine": False,
    "warmup": 0,
    "ema": 0.0,
    "scale": None,
    "colour": 0.0,
    "precision": "float32",
    "cache": "none",
    "compile": False,
    "eval_every": 1,
}

# The fast recipe: crops of one size in batches that never leave the GPU, in bfloat16.
FAST = {
    "crop": "400x400",
    "crops_per_image": 4,
    "batch_size": 16,
    "flip": 0.5,
    "optimizer": "adam",
    "cosine": True,
    "warmup": 200,
    "ema": 0.999,
    "scale": "0.75:1.5",
    "colour": 0.2,
    "precision": "auto",
    "cache": "gpu",
    "eval_every": 5,
}
FAST_TEACHER = {"epochs": 300}
FAST_TEACHER_LR = {"csrnet": 1e-4, "bl": 3e-5}
FAST_STUDENT = {"epochs": 600, "lr": 5e-4, "teacher_cache": "auto"}

# The demonstration: small crops, random weights and a narrow teacher, minutes on a CPU.
DEMO = {
    "epochs": 7,
    "crop": "96x96",
    "crops_per_image": 4,
    "batch_size": 8,
    "cosine": True,
    "weight_decay": 0.0,
    "background": 1.0,
    "eval_every": 1,
}
DEMO_TEACHER = {"width": "1/3", "init": "kaiming", "optimizer": "adam"}
DEMO_TEACHER_LR = {"csrnet": 5e-4, "bl": 2e-4}
DEMO_STUDENT_LR = 1e-3


def choose_protocol(arch: str, dataset: str) -> str:
    """Returns how a data set's images are counted in the paper of a network."""
    if dataset != "QNRF":
        return "whole"
    return "cells" if arch == "csrnet" else "rescaled"


def teacher_recipe(arch: str, dataset: str, recipe: str = "published") -> dict[str, Any]:
    """Returns the options of a teacher's training; `recipe` is of RECIPES."""
    published = _published(dataset)
    options = {"width": "1", "init": "imagenet", "out": Path(f"runs/teacher_{arch}")}
    if arch == "csrnet":
        options |= CSRNET | CSRNET_TEACHER
    else:
        options |= BL | {"lr": BL_TEACHER_LR[published], "crop": BL_CROP[published]}
    fast = FAST_TEACHER | {"lr": FAST_TEACHER_LR[arch]}
    demo = DEMO_TEACHER | {"lr": DEMO_TEACHER_LR[arch]}
    return _complete(options, arch, dataset, fast if recipe == "fast" else None, demo)


def student_recipe(arch: str, dataset: str, recipe: str = "published") -> dict[str, Any]:
    """Returns the options of a distillation; BL's is its training's but for the learning rate."""
    options = {"out": Path(f"runs/skt_{arch}"), "teacher_cache": "none"}
    if arch == "csrnet":
        options |= CSRNET | CSRNET_STUDENT
    else:
        options |= BL | {"lr": BL_STUDENT_LR, "crop": BL_CROP[_published(dataset)]}
    fast = FAST_STUDENT if recipe == "fast" else None
    return _complete(options, arch, dataset, fast, {"lr": DEMO_STUDENT_LR})


def _complete(
    options: dict[str, Any],
    arch: str,
    dataset: str,
    fast: dict[str, Any] | None,
    demo: dict[str, Any],
) -> dict[str, Any]:
    options |= PLAIN | {"protocol": choose_protocol(arch, dataset)} | POINTS[_published(dataset)]
    if fast is not None:
        options |= FAST | fast
        if dataset == "QNRF" and arch == "csrnet":
            options["cache"] = "ram"  # images and maps are 49 GB
    return options | DEMO | demo if dataset == "DEMO" else options


def _published(dataset: str) -> str:
    """The data set whose recipe is taken: Part A's where there is no other."""
    return "QNRF" if dataset == "QNRF" else "SHA"

"""The published recipes and the fast one: defaults of the programs' options."""

from pathlib import Path
from typing import Any

from datasets.catalogue import find_dataset
from models.build import find_architecture

RECIPES = ("published", "fast")
PLAIN = {  # what all published recipes share
    "batch_size": 1,
    "cosine": False,
    "warmup": 0,
    "ema": 0.0,
    "scale": None,
    "colour": 0.0,
    "corrupt": 0.0,
    "precision": "float32",
    "cache": "none",
    "compile": False,
    "eval_every": 1,
    "trunk_lr": 1.0,
}

# The fast recipe: crops of one size in batches that never leave the GPU, in bfloat16.
# Original: batches of one image and a constant learning rate, as in PLAIN.
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
FAST_STUDENT = {"epochs": 600, "lr": 5e-4, "teacher_cache": "auto"}

# The demonstration: small crops, random weights and a narrow teacher, for minutes on a CPU.
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
DEMO_STUDENT = {"lr": 1e-3, "init": "kaiming"}


def choose_protocol(arch: str, dataset: str) -> str:
    """Returns the protocol by which an architecture's paper counts a data set's images."""
    return find_architecture(arch).protocols.get(find_dataset(dataset).recipe, "whole")


def teacher_recipe(arch: str, dataset: str, recipe: str = "published") -> dict[str, Any]:
    """Returns the options of a teacher's training; `recipe` is of RECIPES."""
    entry = find_architecture(arch)
    options = {"width": "1", "init": "imagenet", "out": Path(f"runs/teacher_{arch}")}
    options |= entry.recipe("teacher", find_dataset(dataset).recipe)
    fast = FAST_TEACHER | entry.fast_teacher
    demo = DEMO_TEACHER | entry.demo_teacher
    return _complete(options, arch, dataset, fast if recipe == "fast" else None, demo)


def student_recipe(arch: str, dataset: str, recipe: str = "published") -> dict[str, Any]:
    """Returns the options of a distillation; `recipe` is of RECIPES."""
    options = {"out": Path(f"runs/skt_{arch}"), "teacher_cache": "none"}
    options |= find_architecture(arch).recipe("student", find_dataset(dataset).recipe)
    fast = FAST_STUDENT if recipe == "fast" else None
    return _complete(options, arch, dataset, fast, DEMO_STUDENT)


def _complete(
    options: dict[str, Any],
    arch: str,
    dataset: str,
    fast: dict[str, Any] | None,
    demo: dict[str, Any],
) -> dict[str, Any]:
    entry = find_dataset(dataset)
    own = {"boxes": entry.boxes, "background": entry.background}  # the data set's
    options = PLAIN | own | options | {"protocol": choose_protocol(arch, dataset)}
    if fast is not None:
        options |= FAST | fast
        if entry.is_large and options["hard"] == "density":
            options["cache"] = "ram"
    return options | DEMO | demo if entry.demonstration else options

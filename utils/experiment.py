"""A whole experiment: train, keep the best by validation, and score it once on the test images."""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from utils.checkpoint import read_checkpoint, save_weights
from utils.engine import Terms, Training, fit
from utils.evaluation import evaluate
from utils.metrics import CountResult, score
from utils.plots import draw_counts
from utils.runlog import RunFolder

# Options that may differ between a run and its continuation.
FREE_TO_CHANGE = {"out", "resume", "eval_every", "workers", "gpu", "cpu", "device", "check"}


def run_experiment(
    args: argparse.Namespace,
    facts: Mapping[str, str],
    modules: Mapping[str, nn.Module],
    terms: Terms,
    weights: Mapping[str, float],
    loader: DataLoader,
    val_loader: Iterable,
    test_loader: Iterable,
) -> None:
    """Runs or resumes a training in --out.

    The checkpoint of the best validation MAE is scored on the test images: result.json and
    counts.png. Its weights without anything else are left in model.safetensors.

    Args:
        args: with everything that `add_training_options` adds, and `device`.
        facts: what the checkpoints say of the network: arch and width.
        modules: what is trained, on the device; "model" is the network that counts.
        terms: a batch -> its unweighted loss terms.
        weights: of the terms.
        loader: of crops; its data set knows the `heads` of every image.
    """
    network = modules["model"]

    def count(images: Iterable) -> list[CountResult]:
        return evaluate(network, images, args.device, args.protocol)

    run = RunFolder(args.out, args.resume)
    settings = run_settings(args, len(loader.dataset))
    optimizer = build_optimizer(args, modules.values())
    training = Training(dict(modules), optimizer, {**facts, "settings": settings})
    if args.resume:
        training.restore(run.last)
        run.rewind(training.progress.epoch)
        if training.progress.epoch >= args.epochs and run.result.exists():
            print(f"{run.path} is finished already")
            return
    run.result.unlink(missing_ok=True)  # of fewer epochs
    fit(
        run,
        training,
        loader,
        terms,
        weights,
        validate=lambda: score(count(val_loader)),
        device=args.device,
        epochs=args.epochs,
        eval_every=args.eval_every,
        cosine=args.cosine,
    )
    _finish(run, training, args, lambda: count(test_loader), loader.dataset.heads)


def _finish(
    run: RunFolder,
    training: Training,
    args: argparse.Namespace,
    count_test: Callable[[], list[CountResult]],
    heads: Sequence[int],
) -> None:
    network, facts = training.modules["model"], training.facts
    chosen = read_checkpoint(run.best_mae)
    network.load_state_dict(chosen["model"])
    results = count_test()
    scores, progress = score(results), chosen["progress"]
    mean = sum(heads) / len(heads)  # the guess to beat
    guessed = score([replace(result, predicted=mean) for result in results])
    validation = "inside the training images" if args.train_on_val else "held out of training"
    run.write_result(
        {
            **facts,
            "parameters": sum(p.numel() for p in network.parameters()),
            "epochs": args.epochs,
            "epoch": progress["epoch"],
            "val_mae": progress["best_mae"],
            "validation": validation,
            "test": asdict(scores),
            "test_mae_of_mean_training_count": guessed.mae,
        }
    )
    draw_counts(results, run.path / "counts.png", f"test images, MAE {scores.mae:.2f}")
    named = {name: facts[name] for name in ("arch", "width")}
    save_weights(run.path / "model.safetensors", network.state_dict(), named)
    print(
        f"{run.path}: epoch {progress['epoch']} of {args.epochs} chosen on validation "
        f"({validation}); test MAE {scores.mae:.2f}, RMSE {scores.rmse:.2f} over {scores.images} "
        f"images\nalways answering the mean training count, {mean:.1f}, has a test MAE of "
        f"{guessed.mae:.2f}"
    )


def run_settings(args: argparse.Namespace, images: int) -> dict[str, str]:
    """Returns what a resumed run must share, as text: options, and the number of training images.

    Of a file only the name counts: data sets and teachers are moved.
    """
    values = {
        name: value.name if isinstance(value, Path) else value
        for name, value in vars(args).items()
        if name not in FREE_TO_CHANGE
    }
    if not args.cosine:  # then more epochs continue the same training
        del values["epochs"]
    return {name: _as_text(value) for name, value in values.items()} | {"images": str(images)}


def _as_text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def build_optimizer(
    args: argparse.Namespace, modules: Iterable[nn.Module]
) -> torch.optim.Optimizer:
    """Builds the optimiser that --optimizer, --lr and --weight-decay ask for."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    if args.optimizer == "adam":
        return torch.optim.Adam(parameters, args.lr, weight_decay=args.weight_decay)
    return torch.optim.SGD(parameters, args.lr, momentum=0.95, weight_decay=args.weight_decay)

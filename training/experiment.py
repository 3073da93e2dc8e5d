"""A whole experiment: train, keep the best by validation, and score it once on the test images."""

import argparse
import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from counting.protocols import evaluate
from training.loop import fit
from training.runlog import RunFolder
from training.schedule import Schedule
from training.state import Progress, Training
from training.step import build_step
from training.trainer import Terms
from utils import distributed
from utils.checkpoint import read_checkpoint, save_weights
from utils.metrics import CountResult, Scores, score
from utils.plots import draw_counts
from utils.precision import allow_tf32, choose_precision

# Options that may differ between a run and its continuation.
FREE_TO_CHANGE = {"out", "resume", "eval_every", "workers", "gpu", "cpu", "device", "check"}
FREE_TO_CHANGE |= {"cache", "compile", "max_minutes", "recipe", "teacher_cache"}
SLOWER_EXACT = 4  # times, at most, that counting in float32 takes a training in 16 bits


def run_experiment(
    args: argparse.Namespace,
    facts: Mapping[str, str],
    modules: Mapping[str, nn.Module],
    terms: Terms,
    weights: Mapping[str, float],
    loader: DataLoader,
    val_loader: Iterable,
    test_loader: Iterable,
    settings: Mapping[str, str] = MappingProxyType({}),
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
        settings: what else a resumed run must share with its beginning.
    """
    main, precision = distributed.is_main(), prepare_device(args)
    run = RunFolder(args.out, args.resume) if main else None
    shared = run_settings(args, len(loader.dataset)) | {"precision": str(precision)[6:]} | settings
    training = build_training(args, {**facts, "settings": shared}, modules, precision)
    validated, tested = distributed.add_up([len(val_loader), len(test_loader)])
    reduced = precision != torch.float32
    ended = SLOWER_EXACT * (validated + tested) if reduced else tested  # images, counted at the end
    schedule = Schedule(
        args.epochs,
        args.warmup,
        args.cosine,
        60 * args.max_minutes,
        closing=1 + ended / validated / len(training.networks),
    )
    if args.resume:
        last = (read_checkpoint(run.last), run.result.exists()) if main else None
        checkpoint, scored = distributed.from_main(last)
        training.restore(checkpoint, args.out / "last.pth")
        progress = training.progress
        if progress.steps >= schedule.plan(len(loader), progress) and scored:
            distributed.say(f"{args.out} is finished already")
            return
        if main:
            run.rewind(progress.epoch)
    if main:
        run.result.unlink(missing_ok=True)  # of fewer epochs

    def count(
        network: nn.Module, images: Iterable, precision: torch.dtype = torch.float32
    ) -> list[CountResult]:
        results = evaluate(network, images, args.device, args.protocol, precision)
        return distributed.gather(results)

    def validate(network: nn.Module) -> Scores:
        return score(count(network, val_loader, precision))

    fit(
        run,
        training,
        loader,
        build_step(modules, terms, args.device, precision, args.compile),
        weights,
        schedule,
        validate,
        args.device,
        args.eval_every,
    )
    network = modules["model"]
    chosen = distributed.from_main(read_checkpoint(run.best_mae) if main else None)
    network.load_state_dict(chosen["model"])
    progress = Progress(**chosen["progress"])
    if reduced:  # what is reported is exact
        progress.best_mae = score(count(network, val_loader)).mae
    results = count(network, test_loader)
    if main:
        write_result(run, training, args, progress, results, loader.dataset.heads)


def prepare_device(args: argparse.Namespace) -> torch.dtype:
    """Makes the device ready for --precision and crops of one size, and returns the precision."""
    allow_tf32(args.precision != "float32")
    torch.backends.cudnn.benchmark = args.batch_size > 1  # crops of one size
    return choose_precision(args.precision, args.device)


def build_training(
    args: argparse.Namespace,
    facts: Mapping[str, Any],
    modules: Mapping[str, nn.Module],
    precision: torch.dtype,
) -> Training:
    """Builds what is trained, as the options ask for it, at its beginning."""
    return Training(
        dict(modules),
        build_optimizer(args, modules.values()),
        torch.amp.GradScaler(args.device.type, enabled=precision == torch.float16),
        dict(facts),
        copy.deepcopy(modules["model"]).requires_grad_(False) if args.ema else None,
        args.ema,
    )


def write_result(
    run: RunFolder,
    training: Training,
    args: argparse.Namespace,
    progress: Progress,
    results: Sequence[CountResult],
    heads: Sequence[int],
) -> None:
    """Writes and prints the errors of the chosen checkpoint, whose weights the model has.

    Args:
        progress: of the checkpoint, its best MAE in float32.
        results: of the test images.
        heads: of the training images.
    """
    network, facts, scores = training.modules["model"], training.facts, score(results)
    mean = sum(heads) / len(heads)  # the guess to beat
    guessed = score([replace(result, predicted=mean) for result in results])
    validation = "inside the training images" if args.train_on_val else "held out of training"
    run.write_result(
        {
            **facts,
            "parameters": sum(p.numel() for p in network.parameters()),
            "epochs": training.progress.epochs,
            "epoch": progress.epochs,
            "minutes": round(training.progress.seconds / 60, 2),
            "val_mae": progress.best_mae,
            "validation": validation,
            "test": asdict(scores),
            "test_mae_of_mean_training_count": guessed.mae,
        }
    )
    draw_counts(results, run.path / "counts.png", f"test images, MAE {scores.mae:.2f}")
    named = {name: facts[name] for name in ("arch", "width")}
    save_weights(run.path / "model.safetensors", network.state_dict(), named)
    print(
        f"{run.path}: epoch {progress.epochs} of {training.progress.epochs} chosen on validation "
        f"({validation}); test MAE {scores.mae:.2f}, RMSE {scores.rmse:.2f} over {scores.images} "
        f"images\nalways answering the mean training count, {mean:.1f}, has a test MAE of "
        f"{guessed.mae:.2f}"
    )


def run_settings(args: argparse.Namespace, images: int) -> dict[str, str]:
    """Returns what a resumed run must share, as text: options, and the number of training images.

    Of a file only the name counts: data sets and teachers are moved.
    """
    values = {name: value for name, value in vars(args).items() if name not in FREE_TO_CHANGE}
    if not args.cosine:  # then more epochs continue the same training
        del values["epochs"]
    return {name: _as_text(value) for name, value in values.items()} | {"images": str(images)}


def _as_text(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(map(_as_text, value))
    return value.name if isinstance(value, Path) else str(value)


def build_optimizer(
    args: argparse.Namespace, modules: Iterable[nn.Module]
) -> torch.optim.Optimizer:
    """Builds the optimiser that --optimizer, --lr and --weight-decay ask for."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    if args.optimizer == "adam":
        return torch.optim.Adam(parameters, args.lr, weight_decay=args.weight_decay, fused=True)
    return torch.optim.SGD(
        parameters, args.lr, momentum=0.95, weight_decay=args.weight_decay, fused=True
    )

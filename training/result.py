"""Ends a training: scores the checkpoint of the best validation on the test images."""

from collections.abc import Sequence
from dataclasses import asdict, replace

import torch
from torch.utils.data import DataLoader

from counting.protocols import evaluate
from models.counter import MAX_SIDE
from training.experiment import Training
from training.state import Progress
from utils import distributed, ranks
from utils.checkpoint import read_checkpoint, save_weights
from utils.device import device_name
from utils.metrics import CountError, CountResult, score
from utils.plots import draw_counts
from utils.precision import allow_tf32


def score_best(training: Training, val: DataLoader, test: DataLoader) -> None:
    """Scores the checkpoint of the best validation MAE once on the test images.

    Writes result.json, counts.png and, with the weights alone, model.safetensors. Counts in
    float32 without TF32; the validation images, too, if the training used another type. Does
    nothing if a finished run was resumed.
    Original: scores the test images at every new best MAE or RMSE on validation.
    """
    if training.scored:
        ranks.say(f"{training.args.out} is finished already")
        return
    folder, network = training.folder, training.criterion.model
    chosen = distributed.from_main(read_checkpoint(folder.best_mae) if folder else None)
    network.load_state_dict(chosen["model"])
    network.eval()
    progress = Progress(**chosen["progress"])
    allow_tf32(False)

    def count(images: DataLoader) -> list[CountResult]:
        try:
            results = evaluate(network, images, training.device, training.args.protocol)
        except CountError as error:
            raise CountError(
                f"{error}; all training is kept: --resume goes on here, with --cpu or elsewhere"
            ) from None
        return distributed.gather(results)

    if training.precision != torch.float32:
        progress.best_mae = score(count(val)).mae
    results = count(test)
    if folder:
        write_result(training, progress, results)
        folder.close()


def write_result(training: Training, progress: Progress, results: Sequence[CountResult]) -> None:
    """Writes and prints the errors of the chosen checkpoint, whose weights the model has.

    Args:
        progress: the checkpoint's, with its best MAE in float32.
        results: of the test images.
    """
    folder, facts, network = training.folder, training.state.facts, training.criterion.model
    scores = score(results)
    mean = sum(training.heads) / len(training.heads)  # the baseline: always guess the mean
    guessed = score([replace(result, predicted=mean) for result in results])
    held_out = not training.args.train_on_val
    validation = "held out of training" if held_out else "inside the training images"
    draw_counts(results, folder.path / "counts.png", f"test images, MAE {scores.mae:.2f}")
    named = {name: facts[name] for name in ("arch", "width", MAX_SIDE)}
    save_weights(folder.weights, network.state_dict(), named)
    folder.write_result(
        {
            **facts,
            "parameters": sum(p.numel() for p in network.parameters()),
            "epochs": training.progress.epochs,
            "epoch": progress.epochs,
            "minutes": round(training.progress.seconds / 60, 2),
            **training.budget,
            "device": device_name(training.device),
            "val_mae": progress.best_mae,
            "validation": validation,
            "test": asdict(scores),
            "test_mae_of_mean_training_count": guessed.mae,
        }
    )
    print(
        f"{folder.path}: epoch {progress.epochs} of {training.progress.epochs} chosen on "
        f"validation ({validation}); test MAE {scores.mae:.2f}, RMSE {scores.rmse:.2f} over "
        f"{scores.images} images\nalways answering the mean training count, {mean:.1f}, has a "
        f"test MAE of {guessed.mae:.2f}"
    )

"""The end of a run: the chosen checkpoint is scored once on the test images."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from torch import nn

from utils.checkpoint import read_checkpoint, save_weights
from utils.metrics import CountResult, score
from utils.plots import draw_counts
from utils.runlog import RunFolder


def finish_run(
    run: RunFolder,
    network: nn.Module,
    count_test: Callable[[], list[CountResult]],
    train_on_val: bool,
    train_heads: Sequence[int],
) -> None:
    """Scores the checkpoint of the best validation MAE, and leaves what a user takes along.

    Writes result.json, counts.png and model.safetensors, the weights without anything else.

    Args:
        network: takes the chosen weights.
        count_test: counts every test image with the network as it is.
        train_heads: of every training image; their mean is the guess to beat.
    """
    chosen = read_checkpoint(run.best_mae)
    network.load_state_dict(chosen["model"])
    results = count_test()
    scores = score(results)
    mean = sum(train_heads) / len(train_heads)
    guessed = score([replace(result, predicted=mean) for result in results])
    validation = "inside the training images" if train_on_val else "held out of training"
    facts = {name: chosen[name] for name in ("arch", "width")}
    run.write_result(
        {
            **facts,
            "epoch": chosen["progress"]["epoch"],
            "val_mae": chosen["progress"]["best_mae"],
            "validation": validation,
            "test": asdict(scores),
            "test_mae_of_mean_training_count": guessed.mae,
            "settings": chosen["settings"],
        }
    )
    draw_counts(results, run.path / "counts.png", f"test images, MAE {scores.mae:.2f}")
    save_weights(run.path / "model.safetensors", network.state_dict(), facts)
    print(
        f"{run.path}: epoch {chosen['progress']['epoch']} chosen on validation ({validation}); "
        f"test MAE {scores.mae:.2f}, RMSE {scores.rmse:.2f} over {scores.images} images\n"
        f"always answering the mean training count, {mean:.1f}, has a test MAE of {guessed.mae:.2f}"
    )

"""How long a training lasts."""

import math
from dataclasses import dataclass

from training.state import Progress

UNTIMED_CLOSING = 0.1  # of the budget, kept for validation and test until one was timed


@dataclass(frozen=True)
class Schedule:
    """A number of epochs, or fewer where their time is up.

    Args:
        warmup: steps over which the learning rate rises from 0, linearly; at most half of all.
        cosine: whether it then falls to 0 along half a cosine, or stays.
        max_seconds: of the whole training, with all its validations and what follows it.
        closing: how many validations' time the end takes: the last one, and the test.
    """

    epochs: int
    warmup: int = 0
    cosine: bool = False
    max_seconds: float = math.inf
    closing: float = 1.0

    def plan(self, steps: int, progress: Progress) -> int:
        """Returns how many steps of `steps` an epoch the training will have taken at its end."""
        wanted, done = self.epochs * steps, progress.steps
        if math.isinf(self.max_seconds) or done < 2:
            return wanted
        if progress.validation is None:
            closing = UNTIMED_CLOSING * self.max_seconds
        else:
            closing = self.closing * progress.validation
        left = max(0.0, self.max_seconds - closing - progress.seconds)
        if progress.pace is None:  # nothing was timed since an older version's checkpoint
            each = (progress.seconds - progress.first) / (done - 1)
        else:
            each = progress.pace + progress.between / done
        return min(wanted, done + int(left / each))

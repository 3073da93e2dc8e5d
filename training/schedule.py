"""Plans how long a training lasts."""

import math
from dataclasses import dataclass

from training.state import Progress

UNTIMED_CLOSING = 0.1  # of the time, reserved for validation and test until a validation was timed


@dataclass(frozen=True)
class Schedule:
    """A number of epochs, or fewer if time is up.

    Args:
        warmup: steps over which the learning rate rises linearly from 0; at most half of all.
        cosine: whether it then falls to 0 along half a cosine, or stays.
        max_seconds: for the whole training, with its validations and the test.
        closing: time of the last validation and the test, as a multiple of a validation's.
    """

    epochs: int
    warmup: int = 0
    cosine: bool = False
    max_seconds: float = math.inf
    closing: float = 1.0

    def plan(self, steps: int, progress: Progress) -> int:
        """Returns the number of steps in the whole training, with `steps` per epoch."""
        wanted, done = self.epochs * steps, progress.steps
        if math.isinf(self.max_seconds) or done < 2:
            return wanted
        if progress.validation is None:
            closing = UNTIMED_CLOSING * self.max_seconds
        else:
            closing = self.closing * progress.validation
        left = max(0.0, self.max_seconds - closing - progress.seconds)
        if progress.pace is None:  # resumed from an older version's checkpoint
            each = (progress.seconds - progress.first) / (done - 1)
        else:
            each = progress.pace + progress.between / done
        return min(wanted, done + int(left / each))

"""What a program counted, and its exit code."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from counting.sources import Source, SourceError, find_sources
from utils.interrupt import StopRequest
from utils.progress import tell

UNREADABLE, ALARM, STOPPED = 1, 3, 130  # exit codes


@dataclass(kw_only=True)
class Totals:
    """How much was counted, with how many alarms and problems."""

    stop: StopRequest = field(default_factory=StopRequest)
    counted: int = 0  # pictures and frames
    alarms: int = 0
    problems: int = 0

    def complain(self, error: Exception | str) -> None:
        """Prints an error in one line, and counts it."""
        self.problems += 1
        tell(f"error: {' '.join(str(error).split())}")

    def find(self, inputs: Sequence[str], recursive: bool) -> Iterator[Source]:
        """Yields the sources of all inputs; prints an error for those that name none."""
        for text in inputs:
            try:
                yield from find_sources(text, recursive, tell, self.complain)
            except (SourceError, OSError) as error:
                self.complain(error)

    @property
    def exit_code(self) -> int:
        if self.stop.requested:
            return STOPPED
        return ALARM if self.alarms else UNREADABLE if self.problems else 0

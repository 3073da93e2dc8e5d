"""Which of the processes this is that torchrun started; one alone is number 0 of 1."""

import os


def rank() -> int:
    """Returns the number of this process; number 0 writes and prints."""
    return int(os.environ.get("RANK", 0))


def processes() -> int:
    """Returns the number of processes on all machines together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """Returns the number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_processes() -> int:
    """Returns the number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def is_main() -> bool:
    return rank() == 0


def say(line: str) -> None:
    """Prints a line, in the main process only."""
    if is_main():
        print(line)

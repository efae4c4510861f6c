"""What is said about the data."""

from __future__ import annotations

from lightning.fabric.utilities.rank_zero import rank_zero_only


@rank_zero_only
def say(line: str) -> None:
    """Prints a line about the data, once of several processes."""
    print(f"data: {line}")

"""What a network's answers mean: one class of several, any of several, or a number. Standard library only."""

from __future__ import annotations

from resnetv2.errors import ConfigError, unknown

# Each task with the column of a list that holds what is to be learnt.
COLUMNS = {"classification": "label", "multilabel": "labels", "regression": "target"}
TASKS = tuple(COLUMNS)
METRICS = {"classification": "top1", "multilabel": "map", "regression": "mae"}  # by which the best epoch is chosen
LOWER_IS_BETTER = frozenset({"mae"})


def check_task(task: str) -> None:
    """Refuse a task that does not exist.

    Raises:
        ConfigError: naming those that do.
    """
    if task not in TASKS:
        raise ConfigError(unknown("task", task, TASKS))

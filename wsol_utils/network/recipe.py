"""Say how to fine-tune a network: epochs, rates and their schedule (Zhang et al., Sec. 5)."""

import math
from dataclasses import dataclass

SCHEDULES = ("constant", "onecycle", "steps")


@dataclass(frozen=True)
class Recipe:
    """The values of a fine-tuning.

    Attributes:
        epochs: passes over the train split.
        batch_size: images in a step, of all processes together; the last batch is left out where it is incomplete.
        lr: the backbone's rate (1e-4 in the paper).
        head_multiplier: the head learns at `lr` times this. Eq. 1's second division makes the pooled vector W·H times
            smaller, so `wgap` needs a far larger one than `gap`.
        weight_decay: of the backbone; the head's is this divided by `head_multiplier`, so that both shrink by the same
            share in a step.
        optimizer: "sgd" (Nesterov momentum 0.9) or "adamw".
        schedule: one of `SCHEDULES`: "constant", "onecycle", or "steps" (as in rethinkingCAM: a tenth after 30, 60 and
            90 % of the run).
    """

    epochs: int
    batch_size: int
    lr: float
    head_multiplier: float
    weight_decay: float
    optimizer: str = "sgd"
    schedule: str = "constant"

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adamw"):
            raise ValueError(f"unknown optimizer {self.optimizer!r}; choose one of sgd, adamw")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {self.schedule!r}; choose one of {', '.join(SCHEDULES)}")


def rate_factor(schedule: str, progress: float) -> float:
    """Give the share of its full rate that a parameter group learns at, `progress` from 0 to 1 through the run.

    "onecycle" rises linearly from 1/25 over the first 30 % and falls along a cosine to 0.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "steps":
        return 0.1 ** sum(progress >= step for step in (0.3, 0.6, 0.9))
    if progress < 0.3:
        return 0.04 + 0.96 * progress / 0.3
    return 0.5 + 0.5 * math.cos(math.pi * (progress - 0.3) / 0.7)

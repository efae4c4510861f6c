"""Whether torch's own scheduler fits the training."""

from __future__ import annotations

from collections.abc import Iterator

from vae_lightning.doctor.findings import Case, Finding
from vae_lightning.train.scheduler import Length, interval_of


def schedule(case: Case) -> Iterator[Finding]:
    """Nothing of the project's own schedules, which span any training."""
    experiment = case.experiment
    if experiment.lr_scheduler is None:
        return
    length = Length.of(case.epochs, case.steps, case.epoch_steps)
    scheduler = experiment.dry_scheduler()
    interval = interval_of(scheduler, experiment.lr_interval, length)
    if complaint := experiment.complaint(length):
        yield Finding(False, f"the learning rate does not fit the training: {complaint.what}", complaint.remedy)
    else:
        count = length.count(interval)
        of = "a training without end" if count is None else f"the training's {count} {interval}s"
        yield Finding(True, f"{type(scheduler).__name__}, once every {interval}, fits {of}.")

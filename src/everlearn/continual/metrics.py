"""What a stream left behind: measured from the answers after every experience. Accuracies are fractions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.continual.strategies.base import AsksForDomain, Strategy, TakesBoundaries
from everlearn.continual.streams import Stream


@dataclass(frozen=True)
class Report:
    """The usual numbers of class-incremental learning; E experiences, rows of `retention` are evenings.

    Args:
        retention: [E, E], accuracy after experience i on the classes of experience j; NaN where j has not come yet.
        final: share of all test records answered correctly at the end.
        final_macro: the same with every class weighing as much as another.
        average_incremental: mean over i of the accuracy on all records whose class has come by then.
        forgetting: mean over j < E of the best accuracy on j before the end, minus the last.
        backward_transfer: mean over j < E of the last accuracy on j minus that right after j; negative is loss.
        plasticity: mean over j of the accuracy on j right after j.
    """

    retention: Tensor
    final: float
    final_macro: float
    average_incremental: float
    forgetting: float
    backward_transfer: float
    plasticity: float


def run_stream(strategy: Strategy, stream: Stream, batch_size: int) -> Tensor:
    """Let a strategy learn a stream once and answer all test records after every experience.

    No task id is given, at learning or at test. Only a strategy that `TakesBoundaries` hears where experiences end, and
    only one that `AsksForDomain`, an oracle, hears which experience a test record's class came in.

    Returns:
        answers: [E, N] int64 classes; those to classes that have not come yet are ignored by `report`.
    """
    answers = []
    for experience in stream.experiences:
        for x, y in experience.batches(batch_size):
            strategy.observe(x, y)
        if isinstance(strategy, TakesBoundaries):
            strategy.end_of_task()
        if isinstance(strategy, AsksForDomain):
            answers.append(strategy.predict_in(stream.test.x, stream.test_experience))
        else:
            answers.append(strategy.predict(stream.test.x))
    return torch.stack(answers)


def retention_matrix(answers: Tensor, labels: Tensor, experience: Tensor) -> Tensor:
    """Return the accuracy after each experience on the classes of each.

    Args:
        answers: [E, N], what was answered after each experience.
        labels: [N].
        experience: [N], the experience that each record's class came in.
    Returns:
        [E, E] float64; NaN above the diagonal, where the classes have not come yet.
    """
    right = (answers == labels).double()
    count = len(answers)
    columns = torch.stack([right[:, experience == j].mean(1) for j in range(count)], dim=1)
    return columns.masked_fill(torch.ones(count, count, dtype=torch.bool).triu(1), torch.nan)


def report(answers: Tensor, labels: Tensor, experience: Tensor) -> Report:
    """Measure a run; the arguments are those of `retention_matrix`."""
    retention = retention_matrix(answers, labels, experience)
    right = (answers == labels).double()
    incremental = [right[i, experience <= i].mean() for i in range(len(answers))]
    by_class = [right[-1, labels == c].mean() for c in labels.unique()]
    last, diagonal = retention[-1], retention.diagonal()
    best = retention[:-1].nan_to_num(-1.0).amax(0)[:-1] if len(answers) > 1 else last[:0]
    earlier = last[:-1]
    return Report(
        retention=retention,
        final=float(right[-1].mean()),
        final_macro=float(torch.stack(by_class).mean()),
        average_incremental=float(torch.stack(incremental).mean()),
        forgetting=_mean(best - earlier),
        backward_transfer=_mean(earlier - diagonal[:-1]),
        plasticity=float(diagonal.mean()),
    )


def _mean(values: Tensor) -> float:
    """Return the mean, 0 for none: one experience leaves nothing to forget."""
    return float(values.mean()) if len(values) else 0.0

"""One protocol for every strategy: the stream once, every test record after each experience, no task id."""

from __future__ import annotations

import time
import warnings
from typing import Any

import torch
from torch import Tensor

from everlearn.continual.metrics import Report, report, run_stream
from everlearn.continual.strategies.base import AsksForDomain, Strategy, TakesBoundaries
from everlearn.continual.streams import Stream

Row = dict[str, Any]


class Stopwatch:
    """A strategy that notes after every experience for how long it learned, solved and answered, and its bytes.

    Args:
        strategy: what is measured.
    """

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.stores_images = strategy.stores_images
        self.learning = self.solving = self.answering = 0.0
        self.after: list[tuple[float, float, int]] = []  # seconds of learning and of solving so far, bytes

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Let it learn a batch."""
        start = time.process_time()
        self.strategy.observe(x, y)
        self.learning += time.process_time() - start

    def end_of_task(self) -> None:
        """Tell it that a task has ended, if it wants to know."""
        start = time.process_time()
        if isinstance(self.strategy, TakesBoundaries):
            self.strategy.end_of_task()
        self.learning += time.process_time() - start

    def predict(self, x: Tensor) -> Tensor:
        """Let it answer without an oracle."""
        return self.predict_in(x, None)

    def predict_in(self, x: Tensor, domain: Tensor | None) -> Tensor:
        """Let it answer, and tell it the records' domains if it is one that asks for them."""
        start = time.process_time()
        # whoever solves or trains when it is asked does so for the first question, which is asked alone
        self._answer(x[:1], None if domain is None else domain[:1])
        solved = time.process_time()
        found = self._answer(x, domain)
        self.solving += solved - start
        self.answering += time.process_time() - start
        self.after.append((self.learning, self.solving, self.strategy.stores_bytes()))
        return found

    def _answer(self, x: Tensor, domain: Tensor | None) -> Tensor:
        """Hand a question to the strategy."""
        if isinstance(self.strategy, AsksForDomain) and domain is not None:
            return self.strategy.predict_in(x, domain)
        return self.strategy.predict(x)

    def stores_bytes(self) -> int:
        """Return its bytes."""
        return self.strategy.stores_bytes()


def measure(strategy: Strategy, stream: Stream, batch_size: int, *, leaked: tuple[int, ...] = ()) -> Row:
    """Let a strategy learn a stream and report everything that is usually asked.

    Args:
        strategy: new.
        stream: see `continual.streams`.
        batch_size: records that are learned at a time.
        leaked: test records that were learned as well; the final accuracy is reported without them too.
    Returns:
        accuracies as shares: the fields of `metrics.Report`, `task_a` (on the first experience's classes after each),
        `seen` (on all classes so far after each), `final_without_leaks`, `final_macro_without_leaks`. Processor time:
        `seconds` of learning and `solving_seconds` of the first answer, in which some solve or train what others have
        ready, both summed up to each experience; `answering_seconds` of all answers, the first ones among them. And
        `bytes` after each experience, `stores_records`, `needs_boundaries`, `needs_oracle`.
    """
    watch = Stopwatch(strategy)
    answers = run_stream(watch, stream, batch_size)
    labels, experience = stream.test.y, stream.test_experience
    clean = torch.ones(len(labels), dtype=torch.bool)
    clean[list(leaked)] = False
    without = report(answers[:, clean], labels[clean], experience[clean])
    seen = [float((answers[i] == labels)[experience <= i].double().mean()) for i in range(len(answers))]
    return {
        **plain(report(answers, labels, experience)),
        "seen": seen,
        "final_without_leaks": without.final,
        "final_macro_without_leaks": without.final_macro,
        "seconds": [seconds for seconds, _, _ in watch.after],
        "solving_seconds": [seconds for _, seconds, _ in watch.after],
        "bytes": [size for _, _, size in watch.after],
        "answering_seconds": watch.answering,
        "stores_records": strategy.stores_images,
        "needs_boundaries": isinstance(strategy, TakesBoundaries),
        "needs_oracle": isinstance(strategy, AsksForDomain),
    }


def floor(stream: Stream, strength: float) -> Row:
    """Report what a probe loses that is trained anew on all records so far: classes that are confused, not forgotten.

    The probe is multinomial logistic regression by scikit-learn. Every learner's forgetting has this floor: the more
    classes there are, the harder each is.

    Args:
        stream: see `measure`.
        strength: C of the regression, the inverse of its regularisation.
    Returns:
        the fields of `metrics.Report`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    answers, x, y = [], [], []
    for experience in stream.experiences:
        x.append(experience.records.x)
        y.append(experience.records.y)
        every = torch.cat(y)
        if len(every.unique()) < 2:
            answers.append(torch.full_like(stream.test.y, int(every[0])))
            continue
        probe = LogisticRegression(C=strength, max_iter=200)
        with warnings.catch_warnings():
            # 200 iterations are part of the probe
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(torch.cat(x).numpy(), every.numpy())
        answers.append(torch.from_numpy(probe.predict(stream.test.x.numpy())))
    return plain(report(torch.stack(answers), stream.test.y, stream.test_experience))


def plain(found: Report) -> Row:
    """Return a report as JSON can hold it; NaN, where classes have not come yet, is None."""
    retention = [[None if cell != cell else cell for cell in row] for row in found.retention.tolist()]
    return {**vars(found), "retention": retention, "task_a": [row[0] for row in retention]}

"""Answer while learning: reads that wait for no write and for no solve."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, overload

from torch import Tensor

from everlearn.continual.answers import answer
from everlearn.continual.classifier import Classifier
from everlearn.memory.class_statistics import Label
from everlearn.memory.readout import Snapshot


class Serving:
    """Serve a classifier to threads: each answer comes from the newest snapshot that is solved.

    What was learned is answered with as soon as a thread in the background has solved it; until then the last snapshot
    answers, whole: labels and numbers are always of one moment. The classifier may be changed through `learn` or
    directly; the next `predict` sees that it has changed and has it solved.

    Args:
        classifier: what answers and learns.
        pause: seconds between the starts of two solves, at least; more leaves more of the processor to others.
    Example:
        >>> from everlearn.continual.features import HashedText
        >>> classifier = Classifier(HashedText(64))
        >>> ids = classifier.learn(["refund my order", "the app crashes"], ["billing", "bug"])
        >>> with Serving(classifier) as serving:
        ...     ids = serving.learn(["where is the parcel"], ["delivery"])
        ...     serving.wait()
        ...     serving.predict(["my parcel is late"])
        ['delivery']
    """

    def __init__(self, classifier: Classifier, *, pause: float = 0.0) -> None:
        self.classifier, self.pause = classifier, pause
        self._snapshot: Snapshot | None = None
        self._solving: Future[None] | None = None
        self._begun, self._closed = -float("inf"), False
        self._asking = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "everlearn-solve")
        self._solve()

    def learn(self, items: Any, labels: Sequence[Label] | Tensor) -> list[str]:
        """Learn as `Classifier.learn` does, and have it solved.

        Raises:
            ValueError: as `Classifier.learn`, or after `close`; nothing was learned.
        """
        self._check_open()
        ids = self.classifier.learn(items, labels)
        self._refresh()
        return ids

    @overload
    def predict(self, items: Any, *, unknown: Label | None = None) -> list[Label]: ...

    @overload
    def predict(self, items: Any, top_k: int) -> list[list[tuple[Label, float]]]: ...

    def predict(
        self, items: Any, top_k: int | None = None, *, unknown: Label | None = None
    ) -> list[Label] | list[list[tuple[Label, float]]]:
        """Answer as `Classifier.predict` does, from the last solved snapshot and without waiting.

        Raises:
            ValueError: as `Classifier.predict`; also before the first classes are solved, and after `close`.
            Exception: what made the last solve fail.
        """
        self._check_open()
        last = self._solving
        self._refresh()
        if last is not None and last.done():
            last.result()
        snapshot = self._snapshot
        if snapshot is None:
            raise ValueError("nothing is solved yet, so there is no class to answer with; learn first, then wait()")
        phi = self.classifier.memory.features(self.classifier.encoder(items))
        return answer(snapshot, phi, self.classifier.calibration, top_k, unknown)

    def wait(self) -> None:
        """Return once all that was learned until now is answered with."""
        self._check_open()
        self._pool.submit(self._solve).result()

    def close(self) -> None:
        """End the thread in the background; the classifier stays as it is, and is asked itself from then on."""
        self._closed = True
        self._pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(
                "this service is closed, so nothing new would ever be solved; ask the classifier itself, or make "
                "another Serving(classifier)"
            )

    def _refresh(self) -> None:
        """Have the newest state solved, unless that is under way; never waits."""
        snapshot, now = self._snapshot, time.monotonic()
        if snapshot is not None and snapshot.version == self.classifier.memory.version:
            return
        if now - self._begun < self.pause or not self._asking.acquire(blocking=False):
            return
        try:
            if self._solving is None or self._solving.done():
                self._begun, self._solving = now, self._pool.submit(self._solve)
        finally:
            self._asking.release()

    def _solve(self) -> None:
        memory = self.classifier.memory
        self._snapshot = memory.snapshot() if memory.labels else None

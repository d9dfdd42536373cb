"""Threads that predict while another learns: whole answers of one moment, without waiting for anyone."""

import threading

import pytest
import torch

from everlearn.continual.classifier import Classifier
from everlearn.continual.features import RawPixels
from everlearn.continual.serving import Serving
from everlearn.memory.precision import PrecisionMemory
from everlearn.memory.readout import Snapshot

D, BATCHES, SIZE = 8, 30, 5


def stream():
    """A new class arrives with every third batch."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(BATCHES * SIZE) // (3 * SIZE)
    return torch.randn(BATCHES * SIZE, D, generator=generator) + y[:, None] % 4, y


def fresh():
    return Classifier(RawPixels(D), PrecisionMemory(D))


def answers_after_every_batch(probe):
    """What a single thread answers after each batch."""
    made, found = fresh(), []
    for x, y in zip(*(part.split(SIZE) for part in stream()), strict=True):
        made.learn(x, y)
        found.append(made.predict(probe, top_k=99))
    return found


@pytest.mark.parametrize("serve", [True, False])
def test_every_answer_is_that_of_one_moment_and_time_goes_forward(serve):
    """Through `Serving`, and from the classifier itself; two readers, one writer."""
    probe = torch.randn(4, D, generator=torch.Generator().manual_seed(1))
    allowed = answers_after_every_batch(probe)
    x, y = (part.split(SIZE) for part in stream())
    made = fresh()
    made.learn(x[0], y[0])
    serving, seen, done = Serving(made), [[], []], threading.Event()
    source = serving if serve else made

    def read(mine):
        while not done.is_set():
            mine.append(source.predict(probe, top_k=99))

    readers = [threading.Thread(target=read, args=(mine,)) for mine in seen]
    for reader in readers:
        reader.start()
    for a, b in zip(x[1:], y[1:], strict=True):
        source.learn(a, b)
    done.set()
    for reader in readers:
        reader.join()
    serving.wait()
    assert serving.predict(probe, top_k=99) == made.predict(probe, top_k=99) == allowed[-1]
    for mine in seen:
        moments = [allowed.index(answer) for answer in mine]
        assert moments and moments == sorted(moments)
    serving.close()


def test_two_threads_that_learn_leave_what_one_would():
    x, y = (part.split(SIZE) for part in stream())
    made, one = fresh(), fresh()

    def learn(part):
        for a, b in list(zip(x, y, strict=True))[part::2]:
            made.learn(a, b)

    writers = [threading.Thread(target=learn, args=(part,)) for part in (0, 1)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    one.learn(*stream())
    for name, tensor in one.memory.to_tensors()[0].items():
        assert torch.equal(tensor, made.memory.to_tensors()[0][name])


def test_predict_waits_neither_for_a_write_nor_for_a_solve(monkeypatch):
    """Both are held open by other threads; the last answer is given all the same, and the new one comes later."""
    probe, (x, y) = torch.randn(3, D), stream()
    made = fresh()
    made.learn(x[:20], y[:20])
    with Serving(made) as serving:
        before, gate, solve = serving.predict(probe), threading.Event(), Snapshot.of

        def slow(*arguments):
            assert gate.wait(60)
            return solve(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Snapshot, "of", slow)
            serving.learn(x[20:], y[20:] + 50)
            answers = []
            with made._writing, made.memory._writing, serving._asking:
                reader = threading.Thread(target=lambda: answers.append(serving.predict(probe)))
                reader.start()
                reader.join(20)
                assert answers == [before]
            gate.set()
            serving.wait()
        assert serving.predict(probe) == made.predict(probe) != before


def test_what_is_learned_past_it_is_noticed():
    made, (x, _) = fresh(), stream()
    made.learn(x[:5], ["a"] * 5)
    with Serving(made) as serving:
        made.learn(x[5:10] + 9, ["b"] * 5)
        serving.predict(x[:1])
        serving.wait()
        assert serving.predict(x[5:6] + 9) == ["b"]


def test_a_closed_service_says_so_and_learns_nothing():
    made, (x, y) = fresh(), stream()
    made.learn(x[:5], y[:5])
    with Serving(made) as serving:
        pass
    for act in (lambda: serving.learn(x[5:6], y[5:6]), lambda: serving.predict(x), serving.wait):
        with pytest.raises(ValueError, match=r"closed.*another Serving\(classifier\)"):
            act()
    serving.close()
    assert sum(made.counts.values()) == 5 and made.predict(x[:1])


def test_an_empty_classifier_can_be_served_before_it_learns():
    with Serving(fresh(), pause=0.01) as serving:
        with pytest.raises(ValueError, match=r"learn first, then wait\(\)"):
            serving.predict(torch.zeros(1, D))
        serving.learn(torch.zeros(1, D), ["a"])
        serving.wait()
        assert serving.predict(torch.zeros(1, D)) == ["a"]


def test_a_solve_that_fails_is_told_and_does_not_end_the_service(monkeypatch):
    made, (x, y) = fresh(), stream()
    made.learn(x, y)

    def failing(*arguments):
        raise ValueError("no solution")

    with Serving(made) as serving:
        with monkeypatch.context() as patch:
            patch.setattr(Snapshot, "of", failing)
            assert len(serving.learn(x[:1], y[:1])) == 1
            with pytest.raises(ValueError, match="no solution"):
                serving.wait()
            with pytest.raises(ValueError, match="no solution"):
                for _ in range(2):
                    serving.predict(x[:1])
        serving.wait()
        assert serving.predict(x[:1]) == made.predict(x[:1])


def test_solves_keep_their_pause(monkeypatch):
    made, (x, y) = fresh(), stream()
    made.learn(x[:5], y[:5])
    solved, solve = [], Snapshot.of
    monkeypatch.setattr(Snapshot, "of", lambda *arguments: solved.append(1) or solve(*arguments))
    with Serving(made, pause=3600) as serving:
        for row in range(5, 25):
            serving.learn(x[row : row + 1], y[row : row + 1])
            serving._solving.result()
        assert len(solved) == 2  # when it began, and once
        serving.wait()
        assert serving.predict(x[:1], top_k=9) == made.predict(x[:1], top_k=9)

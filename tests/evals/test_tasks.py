"""The small tasks: their labels against languages that are spelled out, and the counting of answers by hand."""

import itertools
import re

import pytest
import torch
from torch import nn

from everlearn.evals.tasks import LAGS, LANGUAGES, Answers, Examples, Task, answer, lags, passkey, recall
from everlearn.evals.tasks.passkey import DIGITS, MARKER, NOISE, QUESTION
from everlearn.evals.tasks.sentences import SCENES, common, corpus, rare

ROWS, LENGTH = 40, 24


def drawn(task, rows=ROWS, length=LENGTH, seed=0):
    return task.draw(rows, length, torch.Generator().manual_seed(seed))


def strings(name, letters):
    """Return (prefix, label) of every counted position of some rows of a language."""
    task = LANGUAGES[name]
    tokens, targets, counted = drawn(task)
    assert tokens.shape == targets.shape == counted.shape == (ROWS, LENGTH)
    assert tokens.max() < task.answers.start <= targets.min() and targets.max() in task.answers
    assert task.answers.stop == task.vocab_size
    columns = (tokens, targets - task.answers.start, counted)
    for row, labels, asked in zip(*(column.tolist() for column in columns), strict=True):
        for t in range(LENGTH):
            if asked[t]:
                yield "".join(letters[i] for i in row[: t + 1]), labels[t]


@pytest.mark.parametrize(
    ("name", "letters", "pattern"),
    [("parity", "01", "(0*10*10*)*|0*"), ("(aa)*", "a", "(aa)*"), ("(abab)*", "ab", "(abab)*")],
)
def test_a_prefix_is_labelled_by_its_membership_in_the_regular_language(name, letters, pattern):
    pairs = list(strings(name, letters))
    assert len(pairs) == ROWS * LENGTH
    assert all(label == (re.fullmatch(pattern, prefix) is not None) for prefix, label in pairs)
    assert {label for _, label in pairs} == {0, 1}


def test_what_may_follow_in_a_n_b_n_is_what_follows_in_some_word_of_it():
    words = ["a" * n + "b" * n for n in range(1, 40)]
    kinds = {frozenset("ab"): 0, frozenset("b"): 1, frozenset(): 2}
    seen = list(strings("a^n b^n", "ab-"))
    for prefix, label in seen:
        follows = frozenset(w[len(prefix)] for w in words if w.startswith(prefix) and len(w) > len(prefix))
        assert any(w.startswith(prefix) for w in words) and kinds[follows] == label
    longest = max(len(prefix) for prefix, _ in seen)
    assert longest == LENGTH, "a string fills the row"


def test_brackets_of_two_kinds_are_each_balanced_and_labelled_by_what_is_open():
    pairs = list(strings("Shuffle-2", "()[]"))
    for prefix, label in pairs:
        depths = []
        for kind in ("()", "[]"):
            steps = [1 if letter == kind[0] else -1 for letter in prefix if letter in kind]
            heights = list(itertools.accumulate(steps, initial=0))
            assert min(heights) >= 0, "nothing closes that was not open"
            depths.append(heights[-1])
        assert label == 2 * (depths[0] > 0) + (depths[1] > 0)
    assert {label for _, label in pairs} == {0, 1, 2, 3}


def test_a_key_that_comes_again_asks_for_the_value_it_had():
    task = recall(4)
    tokens, targets, counted = drawn(task)
    for row, wanted, asked in zip(tokens.tolist(), targets.tolist(), counted.tolist(), strict=True):
        held = {}
        for t in range(0, LENGTH, 2):
            key, value = row[t], row[t + 1]
            assert key in range(4) and value in task.answers and not asked[t + 1]
            assert asked[t] == (key in held)
            if asked[t]:
                assert wanted[t] == held[key] == value
            held[key] = value
    assert not counted[:, :2].any() and counted[:, -2].any()


def test_lags_count_tokens_since_the_same_one():
    assert lags(torch.tensor([[5, 7, 5, 5, 8, 7]])).tolist() == [[0, 0, 2, 1, 0, 4]]
    assert [a for a, _ in LAGS][1:] == [b + 1 for _, b in LAGS][:-1], "the groups leave nothing out"


def test_a_passkey_is_hidden_once_and_asked_for_at_the_end():
    tokens, targets, counted = drawn(passkey(3), length=20)
    places = set()
    for row, wanted, asked in zip(tokens.tolist(), targets.tolist(), counted.tolist(), strict=True):
        place = row.index(MARKER)
        places.add(place)
        assert row.count(MARKER) == row.count(QUESTION) == 1 and row[-4] == QUESTION
        assert row[place + 1 : place + 4] == row[-3:] == [w for w, a in zip(wanted, asked, strict=True) if a]
        assert asked == [False] * 16 + [True] * 3 + [False]
        rest = row[:place] + row[place + 4 : -4]
        assert all(symbol < NOISE for symbol in rest)
    assert min(places) == 0 and max(places) == 12, "everywhere before the question"
    assert passkey().answers == range(NOISE, NOISE + DIGITS)


def test_the_control_asks_for_a_key_that_is_nowhere():
    tokens, _, counted = drawn(passkey(3, needle=False), length=20)
    assert (tokens[:, :16] < NOISE).all() and counted.sum() == 3 * ROWS
    with pytest.raises(ValueError, match="a row of 7 tokens cannot hold a key of 3 digits"):
        drawn(passkey(3), length=7)


class Fixed(nn.Module):
    """Always answers with the same token, and rates tokens that are no answers highest."""

    def __init__(self, vocab_size, says):
        super().__init__()
        self.vocab_size, self.says = vocab_size, says

    def forward(self, ids):
        scores = torch.zeros(*ids.shape, self.vocab_size)
        scores[..., 0], scores[..., self.says] = 9, 1
        return scores, None


def test_answers_are_counted_where_something_was_asked():
    examples = Examples(
        torch.zeros(2, 4, dtype=torch.long),
        torch.tensor([[2, 3, 2, 2], [3, 3, 2, 3]]),
        torch.tensor([[True, True, True, False], [True, False, True, True]]),
    )
    task = Task("by hand", 4, range(2, 4), lambda rows, length, generator: examples)
    asked = answer(Fixed(4, 2), task, rows=2, length=4, generator=torch.Generator(), at_once=1)
    assert asked.right.tolist() == [[True, False, True, False], [False, False, True, False]]
    assert asked.accuracy() == 3 / 6
    assert asked.between(1, 2) == 1 / 3 and asked.between(3, 4) == 2 / 3
    assert asked.rows_right() == 0
    assert asked.constant(1, 2) == 2 / 3 and asked.constant(3, 4) == 2 / 3
    every = Answers(torch.tensor([[True, False], [False, True]]), Examples(*(x[:, 2:] for x in examples)))
    assert every.rows_right() == 0.5
    assert every.accuracy(torch.zeros(2, 2, dtype=torch.bool)) != every.accuracy(), "nothing asked is not a number"


def test_rare_sentences_are_as_long_as_common_ones_and_nobody_says_them():
    said = corpus(200, torch.Generator().manual_seed(0)).decode().splitlines()
    assert set(said) == set(common())
    words = {word for line in common() for word in line.split()}
    for thing, line in enumerate(common()):
        assert len(rare(thing)) == 9
        for other in rare(thing):
            assert len(other) == len(line) and other not in said and set(other.split()) <= words
            assert other.split()[1] == line.split()[1] == SCENES[thing][0]

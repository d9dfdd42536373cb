"""Every sentence is fed its numbers, the reverse of them, and a difference within the spread."""

import itertools
import math

import pytest
from demo_fixture import changed, pictures, results
from hypothesis import given
from hypothesis import strategies as st

from everlearn.demo import sentences, week_sentences
from everlearn.demo.differences import Difference, between_methods, between_readers
from everlearn.demo.phrases import NO_DIFFERENCE, positions


def late(name, value):
    """Return the fixture with one reader's number in the last bucket replaced, and a small spread everywhere."""
    new = changed()
    for key in [k for k in new["reading"] if k.endswith("_sd")]:
        new["reading"][key] = [0.05] * 5
    new["reading"][name][-1] = value
    return new


@pytest.mark.parametrize(
    ("value", "words"),
    [(2.41, "learning saves 0.53, or 18 %"), (3.24, "learning costs 0.30, or 10 % more"), (2.92, NO_DIFFERENCE)],
)
def test_learning_against_frozen(value, words):
    said = sentences.learning(late("learning", value))
    assert words in said and f"needs {value:.2f} bits per byte where the same weights frozen need 2.94" in said


def test_files_are_compared_with_themselves_where_their_numbers_are_given():
    # the files differ by 0.31 among themselves, but every one of them gains: the pairs show it, the means do not
    new = results()
    new["reading"]["learning"] = [value - 0.2 for value in new["reading"]["frozen"]]
    new["reading"]["per_file"]["learning"] = [[v - 0.2 for v in row] for row in new["reading"]["per_file"]["frozen"]]
    assert "learning saves 0.20, or 7 % (lower in 8 of 8 files)" in sentences.learning(new)
    del new["reading"]["per_file"]
    assert NO_DIFFERENCE in sentences.learning(new)


def test_levels_are_named_with_their_pace():
    said = sentences.levels(changed())
    assert said.startswith("What learns is the CMS, 2 levels of the model's weights")
    assert said.endswith("'fast' after every 64 bytes, 'slow' after every 1,024 bytes.")


def test_control_tells_whose_memory_helps():
    assert "Ada's file costs 3.22, 0.81 more: the saving comes from this very file" in sentences.control(
        late("control", 3.22)
    )
    assert "2.00, 0.41 less: what her own file taught serves it worse" in sentences.control(late("control", 2.0))
    assert f"2.43: {NO_DIFFERENCE}, so nothing here shows" in sentences.control(late("control", 2.43))
    assert "her own memory saves nothing against frozen" in sentences.control(late("frozen", 2.0))


@pytest.mark.parametrize(
    ("sentence", "key"), [(sentences.one_rate, "one_rate"), (sentences.all_weights, "all_weights")]
)
def test_learning_against_other_learners(sentence, key):
    assert "0.59 bits per byte better than" in sentence(late(key, 3.0))
    assert "0.41 bits per byte worse than" in sentence(late(key, 2.0))
    assert f"{NO_DIFFERENCE} compared with" in sentence(late(key, 2.42))


def test_yardsticks_win_and_lose():
    said = sentences.yardsticks(late("ngram_online", 2.0))
    assert "counts on while it reads needs 2.00 (better than this model learning)" in said
    assert f"the same n-gram frozen 2.95 ({NO_DIFFERENCE} compared with this model frozen)" in said
    assert "gzip 2.33 (better than this model learning)" in said
    assert "2.90 (worse than this model learning)" in sentences.yardsticks(late("ngram_online", 2.9))
    assert "frozen 3.50 (worse than this model frozen)" in sentences.yardsticks(late("ngram", 3.5))


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (2.65, "(+0.040): it does worse on what it knew"),
        (2.55, "(-0.060): it does better on what it knew"),
        (2.62, "(+0.010): no change beyond the spread"),
    ],
)
def test_damage_has_a_sign(after, words):
    assert words in sentences.damage(changed(reading__kept__after=after))


def test_damage_without_a_spread_goes_by_what_is_printed():
    kept = {"before": 2.610, "after": 2.613}
    assert sentences.damage(changed(reading__kept=kept)).endswith("(+0.003): no change.")
    assert "worse on what it knew" in sentences.damage(changed(reading__kept=kept | {"after": 2.62}))


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (2.92, "and costs +0.31: one rate does 0.27 more damage"),
        (2.50, "and costs -0.11: the CMS does 0.15 more damage"),
        (2.70, f"and costs +0.09: {NO_DIFFERENCE}"),
    ],
)
def test_damage_beside_gain(after, words):
    said = sentences.damage_beside_gain(changed(reading__one_rate_kept__after=after))
    assert "the CMS gains +0.53 on the new file and costs +0.04 on the old text" in said
    assert f"one rate, the control, gains +0.54 {words}." in said
    assert "the CMS gains -0.06 on the new file" in sentences.damage_beside_gain(late("learning", 3.0))


@pytest.mark.parametrize(
    ("after", "part", "words"),
    [
        (
            2.81,
            "Part of that difference",
            "+0.20: less than one rate all the same, so levels that change more slowly help",
        ),
        (3.10, "That difference", "+0.49: more than one rate, so levels that change more slowly do not prevent damage"),
        (
            2.90,
            "That difference",
            f"+0.29: {NO_DIFFERENCE} compared with one rate, so levels that change more slowly do",
        ),
    ],
)
def test_restarting_a_level_is_told_apart_from_slow_levels(after, part, words):
    said = sentences.restarts(changed(reading__no_restart_kept__after=after))
    assert said.startswith(f"{part} is by design: the level 'fast' of the CMS restarts at the end of each document")
    assert f"Without that restart the CMS costs {words}" in said


def test_restarts_are_named_only_where_they_differ():
    assert sentences.restarts(changed(reading__one_rate_kept__after=2.5)).startswith("By design: the level 'fast'")
    levels = changed()["reading"]["levels"]
    assert sentences.restarts(changed(reading__levels__learning=levels["one_rate"])) == ""
    assert sentences.restarts(changed(reading__levels__one_rate=levels["learning"])) == ""


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (2.75, "+0.14 on the old text: 0.10 more than the CMS, so what persists does less damage when it changes more"),
        (2.57, "-0.04 on the old text: 0.08 less than the CMS, so changing more slowly does not help here"),
        (2.66, f"+0.05 on the old text: {NO_DIFFERENCE} compared with the CMS, so its pace shows no effect here"),
    ],
)
def test_pace_is_compared_where_both_restart(after, words):
    said = sentences.same_restart(changed(reading__one_rate_restart_kept__after=after))
    assert said.startswith(f"With the same restart, one rate costs {words}")


def test_first_file_again():
    said = sentences.first_again(changed())
    assert "(-0.23): cheaper than at its first reading, and cheaper than frozen (2.94)" in said
    reversed_ = changed(reading__first_again={"before": 2.41, "after": 3.05, "frozen": 2.94})
    assert "(+0.64): dearer than at its first reading, and dearer than frozen" in sentences.first_again(reversed_)
    short = sentences.first_again(changed(reading__first_again={"before": 2.41, "after": 2.41}))
    assert short.endswith("(+0.00): no change.")


def test_names_get_cheaper_by_learning_or_not():
    assert "learning makes it 1.00 cheaper than context alone does" in sentences.names(changed())
    swapped = changed()
    row = swapped["reading"]["names"]
    row["frozen"], row["learning"] = row["learning"], row["frozen"]
    assert "learning makes it 1.00 less cheap than context alone does" in sentences.names(swapped)
    assert f"learning makes {NO_DIFFERENCE}" in sentences.names(changed(reading__names__extra_sd=1.5))


def test_identities_are_kept_or_broken():
    assert "bit-identical whatever Bob reads" in sentences.isolation(changed())
    assert "this is a fault" in sentences.isolation(changed(reading__isolation={"identical": False}))
    assert "11 bytes of an unfinished chunk" in sentences.restart(changed())
    assert "is bit-identical to a run that was never stopped" in sentences.restart(changed())
    assert "is not the same as a run that was never stopped" in sentences.restart(changed(restart__identical=False))
    assert "Killed without warning twice, the last time at byte 5,003," in sentences.restart(changed())
    assert "Killed without warning at byte 5,003," in sentences.restart(changed(restart__kills=1))
    assert "1 byte of an unfinished chunk" in sentences.restart(changed(restart__lost_tokens=1))
    assert "level 'fast' is bit-identical to its snapshot" in sentences.rollback(changed())
    assert "not the same as its snapshot" in sentences.rollback(changed(rollback__identical=False))


@given(st.integers(0, 9_000), st.integers(1, 9_000))
def test_a_range_names_its_first_and_its_last_byte(start, size):
    places = range(start, start + size)
    first, last = (int(number.replace(",", "")) for number in positions(start, start + size).split(" to "))
    assert (first, last) == (places[0], places[-1])


def test_ranges_by_hand():
    assert (positions(1, 256), positions(4096, 8193)) == ("1 to 255", "4,096 to 8,192")


def test_shading_adds_up():
    said = sentences.shading({"saved_bits": [4.0, -1.0, 0.0, 5.0]})
    assert "learning saved 1 bytes' worth of bits (2.00 bits per byte): 50 % of the bytes became cheaper, 25 %" in said
    assert "learning cost 1 bytes' worth" in sentences.shading({"saved_bits": [-4.0, 1.0, 0.0, -5.0]})
    assert sentences.shading(pictures()["bytes"]).startswith("Over all 8,192 bytes of this file")


SPEAKING = (week_sentences.monday, sentences.learning, *week_sentences.WEEK, *sentences.READING, *sentences.RESTART)


@pytest.mark.parametrize("sentence", SPEAKING)
def test_each_sentence_is_one_line_and_silent_without_its_numbers(sentence):
    said = sentence(results())
    assert said.endswith(".") and "\n" not in said
    assert "upper bound" not in said and "None" not in said and "nan" not in said
    assert sentence({}) == ""
    missing = changed(
        reading__learning=[math.nan] * 5, digits__precision__final=None, digits__fine_tune__after_day=None
    )
    assert "nan" not in sentence(missing)


def test_differences_by_hand():
    assert [Difference(m, s).sign for m, s in ((0.2, 0.1), (-0.2, 0.1), (0.1, 0.1), (0.1, None))] == [1, -1, 0, 1]
    pair = between_methods({"final": 0.5, "final_sd": 0.1}, {"final": 0.4, "final_sd": 0.3})
    assert (pair.mean, pair.spread) == (pytest.approx(0.1), 0.3)
    rows = {"a": [[1.0], [2.0], [3.0]], "b": [[2.0], [2.0], [5.0]]}
    means = {"a": [2.0], "b": [3.0], "per_file": rows}
    paired = between_readers(means, "a", "b", 0)
    # differences -1, 0, -2: mean -1, standard deviation 1; smaller in two of three
    assert (paired.mean, paired.spread, paired.below, paired.of) == (-1.0, pytest.approx(1.0), 2, 3)


def test_swapping_two_readers_swaps_every_verdict():
    for one, other in itertools.permutations(("frozen", "learning", "control"), 2):
        a = between_readers(results()["reading"], one, other, -1)
        b = between_readers(results()["reading"], other, one, -1)
        assert a.sign == -b.sign and a.mean == -b.mean

"""Every sentence about the digits is fed its numbers, the reverse of them, and a difference within the spread."""

import pytest
from demo_fixture import changed, searched

from everlearn.demo import week_sentences as sentences
from everlearn.demo.phrases import NO_DIFFERENCE


def test_monday_is_lost_kept_or_gained():
    said = sentences.monday(changed())
    assert "fine-tuning loses 98.7 points of Monday's digits (from 99.1 % to 0.4 %)" in said
    assert "precision memory loses 2.1 points" in said
    kept = sentences.monday(changed(digits__precision__after_day=[0.979, 0.99, 0.98, 0.98, 0.978]))
    assert "precision memory keeps, within the spread, Monday's digits (from 97.9 % to 97.8 %)" in kept
    gained = sentences.monday(changed(digits__fine_tune__after_day=[0.5, 0.6, 0.7, 0.8, 0.9]))
    assert "fine-tuning gains 40.0 points on Monday's digits" in gained


@pytest.mark.parametrize(
    ("cms", "rate", "words"),
    [
        (0.40, 0.22, "18.0 points more than the same layers at one rate (the control, 22.0 %)"),
        (0.20, 0.30, "10.0 points less than the same layers at one rate (the control, 30.0 %)"),
        (0.24, 0.22, f"{NO_DIFFERENCE} compared with the same layers at one rate (the control, 22.0 %)"),
    ],
)
def test_cms_against_its_control(cms, rate, words):
    said = sentences.cms_on_digits(changed(digits__cms__final=cms, digits__cms_one_rate__final=rate))
    assert words in said and said.startswith("The paper's own part, the CMS, ends the week with")


def test_cms_against_fine_tuning_with_the_same_kind_of_loss():
    assert "4.7 points more than fine-tuning (19.6 %)" in sentences.cms_on_digits(changed())
    assert "4.3 points less than fine-tuning" in sentences.cms_on_digits(changed(digits__cms__final=0.153))
    masked = "masked fine-tuning, in which, as in the CMS, only the digits at hand compete (81.2 %)"
    for final, words in ((0.9, "8.8 points more than"), (0.7, "11.2 points less than"), (0.8, NO_DIFFERENCE)):
        said = sentences.cms_on_digits(changed(digits__cms__final=final, digits__cms__masked=True))
        assert words in said.split("and ")[1] and masked in said
    unmeasured = changed(digits__cms__masked=True, digits__fine_tune_masked__final=None)
    assert sentences.cms_on_digits(unmeasured) == ""


def test_levels_moved_or_hardly():
    assert sentences.cms_levels(changed()) == "The level of the CMS that moved most ends 12 % away from its start."
    still = sentences.cms_levels(changed(digits__cms__levels_moved=0.0023))
    assert still.startswith("The levels of the CMS hardly moved: the one that moved most ends 0.23 % away")
    # 0.22 against 0.23 at a spread of 0.02 is no worse; the rates of the fixture never differ by more than that
    assert "larger steps scored no better there, and at no step size did several rates score better than one" in still
    unsearched = changed(digits__cms__levels_moved=0.0023, digits__cms__searched=None)
    assert sentences.cms_levels(unsearched).endswith("from its start.")


def test_what_the_search_says_reverses():
    def said(*validation):
        return sentences.cms_levels(
            changed(digits__cms__levels_moved=0.0023, digits__cms__searched=searched(*validation))
        )

    assert "larger steps scored lower there" in said(0.19, 0.23, 0.15, 0.11)
    assert "no larger step was tried" in said(0.1, 0.15, 0.2, 0.25)
    assert "at 2 of 4 step sizes several rates scored better than one" in said(0.19, 0.30, 0.29, 0.15)
    assert "at no step size" in said(0.1, 0.15, 0.1, 0.1)


def test_room_beside_all_images_and_replay():
    said = sentences.storage(changed())
    assert "4,120 KB, more than all training images together (67 KB), so keeping every image would take less" in said
    assert said.endswith("replay stores 53 KB and ends with 92.1 %, precision memory with 96.7 %.")
    small = sentences.storage(changed(digits__precision__stores_kb=40.0))
    assert "40 KB, no more than all training images together (67 KB); replay" in small


@pytest.mark.parametrize(
    ("joint", "words"),
    [(0.98, "1.3 points less than"), (0.95, "1.7 points more than"), (0.971, f"{NO_DIFFERENCE} compared with")],
)
def test_precision_against_all_data_at_once(joint, words):
    said = sentences.precision_against_joint(changed(digits__joint__final=joint))
    assert f"{words} all data at once on the same features (logistic regression, " in said


def test_best_method_without_images_and_replay():
    assert "precision memory ends highest (96.7 %): 4.6 points more than replay" in sentences.without_images(changed())
    worse = changed(digits__precision__final=0.3)
    assert "nearest mean ends highest (89.3 %): 2.8 points less than replay" in sentences.without_images(worse)


def test_features_help_or_hurt():
    assert sentences.features(changed()).endswith("the features help.")
    assert sentences.features(changed(digits__precision__final=0.85)).endswith("the features hurt.")
    assert sentences.features(changed(digits__precision__final=0.913)).endswith(f"{NO_DIFFERENCE}.")


@pytest.mark.parametrize(
    ("largest", "words"),
    [
        (0.0, "are bit-identical to those {whose}."),
        (2.4e-7, "equal, up to rounding, those {whose} (largest difference 2e-07 of the largest score)."),
        (0.03, "differ from those {whose} (largest difference 3e-02 of the largest score)."),
    ],
)
def test_order_and_forgetting_are_exact_nearly_or_not(largest, words):
    reverse = sentences.reverse(changed(digits__reverse_difference=largest))
    assert reverse.endswith(words.format(whose="after the week in order"))
    forget = sentences.forget(changed(digits__forget_difference=largest))
    assert forget.endswith(words.format(whose="of a memory that never saw it"))


def test_a_single_run_says_that_its_spread_is_unknown():
    one_run = changed(digits__cms__final_sd=None, digits__cms_one_rate__final_sd=None)
    assert "(one run, spread unknown)" in sentences.cms_on_digits(one_run)

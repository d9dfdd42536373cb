"""Every sentence about the digits is fed its numbers, the reverse of them, and a difference within the spread."""

import pytest
from demo_fixture import changed

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


def test_cms_against_fine_tuning():
    assert "4.7 points more than fine-tuning (19.6 %)" in sentences.cms_on_digits(changed())
    assert "4.3 points less than fine-tuning" in sentences.cms_on_digits(changed(digits__cms__final=0.153))


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


def test_order_and_forgetting():
    assert "leaves the same precision memory, up to rounding (largest difference 2e-07)" in sentences.reverse(changed())
    assert "leaves a different precision memory" in sentences.reverse(changed(digits__reverse_difference=0.3))
    assert "on request equals, up to rounding, that image never seen" in sentences.forget(changed())
    assert "does not equal" in sentences.forget(changed(digits__forget_difference=0.01))


def test_a_single_run_says_that_its_spread_is_unknown():
    one_run = changed(digits__cms__final_sd=None, digits__cms_one_rate__final_sd=None)
    assert "(one run, spread unknown)" in sentences.cms_on_digits(one_run)

"""The findings of the week of digits as sentences that its own numbers decide.

Each function takes the results and returns one sentence, or nothing where a number was not measured.
"""

from __future__ import annotations

from everlearn.demo.differences import Results, between_methods, present
from everlearn.demo.labels import METHODS, NAMES
from everlearn.demo.phrases import NO_DIFFERENCE, Sentence, against, inside, needs, percent, week

# largest difference between two memories that rounding in float32 explains
SAME_MEMORY = 1e-4


@needs("digits.fine_tune.after_day", "digits.precision.after_day")
def monday(results: Results) -> str:
    """Say what the week did to Monday's digits, for fine-tuning and for the precision memory."""
    return f"Over the week, {week(results['digits'], 'fine_tune')}; {week(results['digits'], 'precision')}."


@needs("digits.cms.final", "digits.cms_one_rate.final", "digits.fine_tune.final")
def cms_on_digits(results: Results) -> str:
    """Say how the paper's own part, the CMS, did on the digits."""
    cms, control, plain = (results["digits"][key] for key in ("cms", "cms_one_rate", "fine_tune"))
    return (
        f"The paper's own part, the CMS, ends the week with {percent(cms['final'])} of all ten digits: "
        f"{against(between_methods(cms, control))} the same layers at one rate (the control, "
        f"{percent(control['final'])}), and {against(between_methods(cms, plain))} fine-tuning "
        f"({percent(plain['final'])})."
    )


@needs("digits.precision.final", "digits.joint.final")
def precision_against_joint(results: Results) -> str:
    """Compare the precision memory with training on everything at once."""
    own, joint = results["digits"]["precision"], results["digits"]["joint"]
    which = f"{joint['which']}, " if joint.get("which") else ""
    return (
        f"Precision memory, which sees each image once, ends with {percent(own['final'])}: "
        f"{against(between_methods(own, joint))} all data at once on the same features "
        f"({which}{percent(joint['final'])})."
    )


@needs("digits.replay.final")
def without_images(results: Results) -> str:
    """Name the best method that keeps no image, and hold it against replay, which does."""
    digits = results["digits"]
    measured = [
        m.key for m in METHODS if present(digits, f"{m.key}.final") and present(digits, f"{m.key}.stores_images")
    ]
    rows = [key for key in measured if not digits[key]["stores_images"]]
    if not rows:
        return ""
    best = max(rows, key=lambda key: digits[key]["final"])
    difference = between_methods(digits[best], digits["replay"])
    return (
        f"Of the methods that keep no image, {inside(NAMES[best])} ends highest ({percent(digits[best]['final'])}): "
        f"{against(difference)} replay, which keeps some ({percent(digits['replay']['final'])})."
    )


@needs("digits.precision.final", "digits.raw_pixels.precision.final")
def features(results: Results) -> str:
    """Say what the shared features are worth to the precision memory."""
    with_features, raw = results["digits"]["precision"], results["digits"]["raw_pixels"]["precision"]
    words = between_methods(with_features, raw).words("the features help", "the features hurt", NO_DIFFERENCE)
    return f"On raw pixels, without the shared features, precision memory ends with {percent(raw['final'])}: {words}."


@needs("digits.reverse_difference")
def reverse(results: Results) -> str:
    """Say whether the week in reverse leaves the same memory."""
    largest = results["digits"]["reverse_difference"]
    verdict = "the same precision memory, up to rounding" if largest <= SAME_MEMORY else "a different precision memory"
    return f"The week in reverse order leaves {verdict} (largest difference {largest:.0e})."


@needs("digits.forget_difference")
def forget(results: Results) -> str:
    """Say whether an image that was forgotten equals one never seen."""
    largest = results["digits"]["forget_difference"]
    verdict = "equals, up to rounding," if largest <= SAME_MEMORY else "does not equal"
    return f"One image forgotten on request {verdict} that image never seen (largest difference {largest:.0e})."


WEEK: tuple[Sentence, ...] = (cms_on_digits, precision_against_joint, without_images, features, reverse, forget)

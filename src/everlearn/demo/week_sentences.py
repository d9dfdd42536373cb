"""The findings of the week of digits as sentences that its own numbers decide.

Each function takes the results and returns one sentence, or nothing where a number was not measured.
"""

from __future__ import annotations

from everlearn.demo.differences import Results, between_methods, present
from everlearn.demo.labels import METHODS, NAMES
from everlearn.demo.phrases import NO_DIFFERENCE, Sentence, against, inside, needs, percent, week

# largest difference between two memories that rounding in float32 explains
SAME_MEMORY = 1e-4
# a level that ends nearer to its start than this share of it has learned next to nothing
HARDLY_MOVED = 0.01


@needs("digits.fine_tune.after_day", "digits.precision.after_day")
def monday(results: Results) -> str:
    """Say what the week did to Monday's digits, for fine-tuning and for the precision memory."""
    return f"Over the week, {week(results['digits'], 'fine_tune')}; {week(results['digits'], 'precision')}."


@needs("digits.cms.final", "digits.cms_one_rate.final", "digits.fine_tune.final")
def cms_on_digits(results: Results) -> str:
    """Say how the paper's own part, the CMS, did on the digits; plain training beside it has the same kind of loss."""
    digits = results["digits"]
    cms, control = digits["cms"], digits["cms_one_rate"]
    key, beside = "fine_tune", "fine-tuning"
    if cms.get("masked"):
        key, beside = "fine_tune_masked", "masked fine-tuning, in which, as in the CMS, only the digits at hand compete"
    if not present(digits, f"{key}.final"):
        return ""
    plain = digits[key]
    return (
        f"The paper's own part, the CMS, ends the week with {percent(cms['final'])} of all ten digits: "
        f"{against(between_methods(cms, control))} the same layers at one rate (the control, "
        f"{percent(control['final'])}), and {against(between_methods(cms, plain))} {beside} "
        f"({percent(plain['final'])})."
    )


@needs("digits.cms.levels_moved")
def cms_levels(results: Results) -> str:
    """Say how far the levels of the CMS moved, and, where that is next to nothing, what the search says about it."""
    cms = results["digits"]["cms"]
    moved = f"{100 * cms['levels_moved']:.2g} %"
    if cms["levels_moved"] >= HARDLY_MOVED:
        return f"The level of the CMS that moved most ends {moved} away from its start."
    search = f" {_search(results['digits'])}" if cms.get("searched") else ""
    return f"The levels of the CMS hardly moved: the one that moved most ends {moved} away from its start.{search}"


def _search(digits: Results) -> str:
    """Word what validation images said about larger steps of the CMS, and about its rates at every step size."""
    rows = digits["cms"]["searched"]
    one_rate = {row["eta"]: row for row in digits["cms_one_rate"].get("searched") or []}
    best = max(rows, key=lambda row: row["validation"])
    larger = [between_methods(row, best, "validation").sign for row in rows if row["eta"] > best["eta"]]
    lower = "scored lower" if all(sign < 0 for sign in larger) else "scored no better"
    steps = f"larger steps {lower} there" if larger else "no larger step was tried"
    pairs = [between_methods(row, one_rate[row["eta"]], "validation") for row in rows if row["eta"] in one_rate]
    helped = sum(pair.sign > 0 for pair in pairs)
    rates = "at no step size did several rates score better than one"
    if helped:
        rates = f"at {helped} of {len(pairs)} step sizes several rates scored better than one"
    return f"Their step size was chosen beforehand on validation images: {steps}{f', and {rates}' if pairs else ''}."


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


@needs("digits.precision.stores_kb", "digits.precision.final", "digits.replay.final", "digits.replay.stores_kb")
def storage(results: Results) -> str:
    """Hold what the precision memory stores against all training images, and against replay."""
    digits = results["digits"]
    own, replay = digits["precision"], digits["replay"]
    if not present(digits, "data.train_images_kb"):
        return ""
    images = digits["data"]["train_images_kb"]
    more = own["stores_kb"] > images
    words = "more than" if more else "no more than"
    verdict = ", so keeping every image would take less room" if more else ""
    return (
        f"Room: precision memory stores {own['stores_kb']:,.0f} KB, {words} all training images together "
        f"({images:,.0f} KB){verdict}; replay stores {replay['stores_kb']:,.0f} KB and ends with "
        f"{percent(replay['final'])}, precision memory with {percent(own['final'])}."
    )


@needs("digits.reverse_difference")
def reverse(results: Results) -> str:
    """Say whether the week in reverse leaves the same memory."""
    same = _sameness(results["digits"]["reverse_difference"], "after the week in order")
    return f"Order: when the week runs in reverse, the scores of precision memory {same}."


@needs("digits.forget_difference")
def forget(results: Results) -> str:
    """Say whether an image that was forgotten equals one never seen."""
    same = _sameness(results["digits"]["forget_difference"], "of a memory that never saw it")
    return f"Forgetting: once an image is forgotten on request, the scores of precision memory {same}."


def _sameness(largest: float, whose: str) -> str:
    """Word the largest difference of two memories' scores, relative to the largest score."""
    if largest == 0:
        return f"are bit-identical to those {whose}"
    words = "equal, up to rounding, those" if largest <= SAME_MEMORY else "differ from those"
    return f"{words} {whose} (largest difference {largest:.0e} of the largest score)"


WEEK: tuple[Sentence, ...] = (
    cms_on_digits,
    cms_levels,
    precision_against_joint,
    without_images,
    storage,
    features,
    reverse,
    forget,
)

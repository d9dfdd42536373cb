"""The findings of reading and of the pulled plug as sentences that their own numbers decide, negatives included.

Each function takes the results and returns one sentence, or nothing where a number was not measured. A difference
that is no larger than the spread is called just that.
"""

from __future__ import annotations

from everlearn.demo.differences import Difference, Results, between_readers, larger, present
from everlearn.demo.phrases import NO_DIFFERENCE, ROUNDING, Sentence, change, last_bucket, needs, plural, versus


@needs("reading.frozen", "reading.learning", "reading.buckets")
def learning(results: Results) -> str:
    """Say what learning while reading saved, or cost, late in a file."""
    reading = results["reading"]
    frozen, now = reading["frozen"][-1], reading["learning"][-1]
    difference = between_readers(reading, "learning", "frozen", -1)
    size = f"{abs(difference.mean):.2f}, or {100 * abs(difference.mean) / frozen:.0f} %"
    verdict = difference.words(f"learning costs {size} more", f"learning saves {size}", NO_DIFFERENCE)
    count = f" (lower in {difference.below} of {difference.of} files)" if difference.of else ""
    return (
        f"At bytes {last_bucket(reading)} of an unseen file, the model that learns while it reads needs {now:.2f} bits "
        f"per byte where the same weights frozen need {frozen:.2f}: {verdict}{count}."
    )


@needs("reading.levels.learning")
def levels(results: Results) -> str:
    """Say what learns, and how often."""
    rows = results["reading"]["levels"]["learning"]
    paces = [f"'{row['name']}' after every {row['update_period']:,} bytes" for row in rows]
    return (
        f"What learns is the CMS, {plural(len(rows), 'level')} of the model's weights that change: {', '.join(paces)}."
    )


@needs("reading.frozen", "reading.learning", "reading.control")
def control(results: Results) -> str:
    """Say whether the saving belongs to the very file: against what another file taught."""
    reading = results["reading"]
    own = between_readers(reading, "learning", "control", -1)
    gain = between_readers(reading, "learning", "frozen", -1)
    costs = f"With the memory of Bob's file instead of her own, Ada's file costs {reading['control'][-1]:.2f}"
    if own.sign == 0:
        return f"{costs}: {NO_DIFFERENCE}, so nothing here shows that a saving comes from this very file."
    costs = f"{costs}, {abs(own.mean):.2f} {own.words('less', 'more', '')}"
    if own.sign > 0:
        return f"{costs}: what her own file taught serves it worse than what Bob's did."
    if gain.sign < 0:
        return f"{costs}: the saving comes from this very file, not from learning as such."
    return f"{costs}; but her own memory saves nothing against frozen."


@needs("reading.learning", "reading.one_rate")
def one_rate(results: Results) -> str:
    """Say whether several rates of change beat one."""
    return f"Several rates against one: {versus(results['reading'], 'one_rate', 'the same levels all at one rate')}."


@needs("reading.learning", "reading.all_weights")
def all_weights(results: Results) -> str:
    """Say whether the CMS beats learning with every weight."""
    other = "dynamic evaluation, which learns with every weight"
    return f"The CMS against the whole model: {versus(results['reading'], 'all_weights', other)}."


@needs("reading.learning", "reading.frozen", "reading.ngram", "reading.ngram_online", "reading.gzip")
def yardsticks(results: Results) -> str:
    """Place the model beside the n-gram and gzip, also where they win."""
    reading = results["reading"]
    parts = []
    for other, model in (("ngram_online", "learning"), ("ngram", "frozen"), ("gzip", "learning")):
        words = between_readers(reading, other, model, -1).words(
            "worse than", "better than", f"{NO_DIFFERENCE} compared with"
        )
        parts.append(f"{reading[other][-1]:.2f} ({words} this model {model})")
    return (
        f"Yardsticks, at the same bytes: an order-5 byte n-gram that counts on while it reads needs {parts[0]}, the "
        f"same n-gram frozen {parts[1]}, gzip {parts[2]}."
    )


@needs("reading.kept.before", "reading.kept.after")
def damage(results: Results) -> str:
    """Say what the new memory did to text that the model knew before."""
    kept = results["reading"]["kept"]
    words = change(kept, "it does worse on what it knew", "it does better on what it knew", decimals=3)
    return (
        "Damage: with the memory of the two files it has just read, held-out files of the kind it was trained on cost "
        f"{kept['after']:.3f} bits per byte instead of {kept['before']:.3f} {words}."
    )


@needs("reading.frozen", "reading.learning", "reading.one_rate", "reading.kept.after", "reading.one_rate_kept.after")
def damage_beside_gain(results: Results) -> str:
    """Hold the damage of the CMS against that of its levels at one rate, each beside what it gains."""
    reading = results["reading"]
    difference = _damage(reading, "one_rate_kept", "kept")
    size = f"{abs(difference.mean):.2f}"
    verdict = difference.words(f"one rate does {size} more damage", f"the CMS does {size} more damage", NO_DIFFERENCE)
    gain = {way: f"{reading['frozen'][-1] - reading[way][-1]:+.2f}" for way in ("learning", "one_rate")}
    return (
        f"Damage beside gain, in bits per byte: the CMS gains {gain['learning']} on the new file and costs "
        f"{_damage(reading, 'kept').mean:+.2f} on the old text; one rate, the control, gains {gain['one_rate']} and "
        f"costs {_damage(reading, 'one_rate_kept').mean:+.2f}: {verdict}."
    )


@needs("reading.levels.learning", "reading.levels.one_rate", "reading.no_restart_kept.after", "reading.kept.after")
def restarts(results: Results) -> str:
    """Say which level restarts with a document, and what the damage is when it does not."""
    reading = results["reading"]
    names = {
        way: [f"'{level['name']}'" for level in levels if level.get("reset") == "document"]
        for way, levels in reading["levels"].items()
    }
    if not names["learning"] or names["one_rate"] or not present(reading, "one_rate_kept.after"):
        return ""
    without = _damage(reading, "no_restart_kept", "one_rate_kept")
    alone = "so levels that change more slowly do not prevent damage by themselves"
    verdict = without.words(
        f"more than one rate, {alone}",
        "less than one rate all the same, so levels that change more slowly help too",
        f"{NO_DIFFERENCE} compared with one rate, {alone}",
    )
    part = "By design"
    if _damage(reading, "one_rate_kept", "kept").sign > 0:
        part = "Part of that difference is by design" if without.sign < 0 else "That difference is by design"
    return (
        f"{part}: the level {' and '.join(names['learning'])} of the CMS restarts at the end of each document and "
        "drops what it learned there; no level of the control does. Without that restart the CMS costs "
        f"{_damage(reading, 'no_restart_kept').mean:+.2f}: {verdict}."
    )


@needs("reading.one_rate_restart_kept.after", "reading.kept.after")
def same_restart(results: Results) -> str:
    """Hold slow levels against one rate where both restart alike: what the pace alone does to the damage."""
    reading = results["reading"]
    difference = _damage(reading, "one_rate_restart_kept", "kept")
    size = f"{abs(difference.mean):.2f}"
    verdict = difference.words(
        f"{size} more than the CMS, so what persists does less damage when it changes more slowly",
        f"{size} less than the CMS, so changing more slowly does not help here",
        f"{NO_DIFFERENCE} compared with the CMS, so its pace shows no effect here",
    )
    return (
        f"With the same restart, one rate costs {_damage(reading, 'one_rate_restart_kept').mean:+.2f} on the old text: "
        f"{verdict}."
    )


def _damage(reading: Results, key: str, other: str | None = None) -> Difference:
    """Return what a memory costs on the old text, or how much more that is than with another memory."""
    rows = [reading[name] for name in (key, other) if name]
    costs = [row["after"] - row["before"] for row in rows]
    return Difference(costs[0] - sum(costs[1:]), larger(*(row.get("change_sd") for row in rows)))


@needs("reading.first_again.before", "reading.first_again.after")
def first_again(results: Results) -> str:
    """Say what is left of the first file after a second one: A, B, A."""
    again = results["reading"]["first_again"]
    words = change(again, "dearer than at its first reading", "cheaper than at its first reading")
    if present(again, "frozen"):
        beside = Difference(again["after"] - again["frozen"], ROUNDING).words(
            "dearer than", "cheaper than", "the same as"
        )
        words = f"{words}, and {beside} frozen ({again['frozen']:.2f})"
    return (
        f"A, B, A: the late bytes of file A cost {again['before']:.2f} when they were first read; after file B, and "
        f"without learning any more, they cost {again['after']:.2f} {words}."
    )


@needs("reading.names.frozen", "reading.names.learning")
def names(results: Results) -> str:
    """Say whether a name that comes again gets cheaper, and whether learning is why."""
    row = results["reading"]["names"]
    now, frozen = row["learning"], row["frozen"]
    extra = Difference((now[0] - now[-1]) - (frozen[0] - frozen[-1]), row.get("extra_sd", ROUNDING))
    size = f"{abs(extra.mean):.2f}"
    verdict = extra.words(
        f"learning makes it {size} cheaper than context alone does",
        f"learning makes it {size} less cheap than context alone does",
        f"learning makes {NO_DIFFERENCE} to what context alone does",
    )
    count = f" ({row['count']:,} of them)" if present(row, "count") else ""
    return (
        f"A name that is not in the training text and comes again{count} goes from {now[0]:.2f} bits per byte to "
        f"{now[-1]:.2f} at its fifth occurrence when learning, and from {frozen[0]:.2f} to {frozen[-1]:.2f} when "
        f"frozen: {verdict}."
    )


@needs("reading.isolation.identical")
def isolation(results: Results) -> str:
    """Say whether readers in one batch stay apart."""
    if results["reading"]["isolation"]["identical"]:
        return "Ada's scores are bit-identical whatever Bob reads beside her in the same batch."
    return "Ada's scores change with what Bob reads beside her in the same batch: this is a fault, report it."


@needs("restart.identical", "restart.killed_at", "restart.resumed_at", "restart.lost_tokens")
def restart(results: Results) -> str:
    """Say what a SIGKILL cost, and whether the rest is as if it had never happened."""
    row = results["restart"]
    verdict = "bit-identical to" if row["identical"] else "not the same as"
    kills = row.get("kills", 1)
    times = "" if kills == 1 else f" {'twice' if kills == 2 else f'{kills} times'}, the last time"
    return (
        f"Killed without warning{times} at byte {row['killed_at']:,}, the process resumed at byte "
        f"{row['resumed_at']:,}: {plural(row['lost_tokens'], 'byte')} of an unfinished chunk had to be read again, and "
        f"everything after that is {verdict} a run that was never stopped."
    )


@needs("rollback.identical", "rollback.level")
def rollback(results: Results) -> str:
    """Say whether a level returns to its snapshot."""
    verdict = "bit-identical to" if results["rollback"]["identical"] else "not the same as"
    return f"Rolled back, Ada's level '{results['rollback']['level']}' is {verdict} its snapshot."


def shading(picture: Results) -> str:
    """Say what the shading of one file adds up to; `picture` is `pictures["bytes"]`."""
    bits = picture["saved_bits"]
    if not bits:
        return ""
    total, cheaper, dearer = sum(bits), sum(b > 0 for b in bits), sum(b < 0 for b in bits)
    return (
        f"Over all {len(bits):,} bytes of this file, learning {'saved' if total >= 0 else 'cost'} "
        f"{abs(total) / 8:,.0f} bytes' worth of bits ({abs(total) / len(bits):.2f} bits per byte): "
        f"{100 * cheaper / len(bits):.0f} % of the bytes became cheaper, {100 * dearer / len(bits):.0f} % dearer."
    )


READING: tuple[Sentence, ...] = (
    control,
    one_rate,
    all_weights,
    yardsticks,
    damage,
    damage_beside_gain,
    restarts,
    same_restart,
    first_again,
    names,
    isolation,
)
RESTART: tuple[Sentence, ...] = (restart, rollback)


def findings(results: Results, functions: tuple[Sentence, ...]) -> list[str]:
    """Return what each function has to say, in order, leaving out those whose numbers were not measured."""
    return [sentence for function in functions if (sentence := function(results))]

"""What was required of level stacking before it was built, held against measured rows."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
PROSE = ("doyle", "war", "darwin", "shakespeare")
ALL = (*PROSE, "python")


@dataclass(frozen=True)
class Check:
    """One requirement.

    Args:
        name: such as "M2 must".
        claim: what was required.
        measured: what each base gave.
        held: in how many bases it held.
        verdict: "reached" where it held in two thirds of the bases, else "missed", or "not measured".
    """

    name: str
    claim: str
    measured: tuple[str, ...]
    held: int
    verdict: str


@dataclass(frozen=True)
class Requirement:
    """A name, a claim in words, the rows that it needs, and what says of one base (held, what was measured)."""

    name: str
    claim: str
    needs: tuple[tuple[str, str], ...]
    judge: Callable[[Row], tuple[bool, str]]


def checks(runs: list[Row]) -> list[Check]:
    """Judge every requirement on every base."""
    found = []
    for requirement in REQUIREMENTS:
        have = [run for run in runs if all(row in run.get(part, {}) for part, row in requirement.needs)]
        results = [requirement.judge(run) for run in have]
        held = sum(ok for ok, _ in results)
        verdict = "reached" if 3 * held >= 2 * len(runs) else "missed"
        found.append(
            Check(
                requirement.name,
                requirement.claim,
                tuple(text for _, text in results),
                held,
                verdict if results else "not measured",
            )
        )
    return found


def bits(run: Row, way: str, domain: str) -> float:
    """Return the bits per byte of a way over all positions, mean over documents."""
    return statistics.fmean(document[-1] for document in run["read"][way][domain])


def gain(run: Row, way: str, domain: str) -> float:
    """Return how much cheaper a way is than the frozen model, in bits per byte."""
    return bits(run, "frozen", domain) - bits(run, way, domain)


def controlled(run: Row, way: str, kind: str, domain: str) -> float:
    """Return how much dearer a text became by what another document, of another or the same domain, has taught."""
    return run["control"][way][kind][domain][-1] - run["read"]["frozen"][domain][0][-1]


def shown(values: dict[str, float], digits: int = 3) -> str:
    """Write named numbers."""
    return " ".join(f"{name} {value:.{digits}f}" for name, value in values.items())


def gains(limits: dict[str, float]) -> Callable[[Row], tuple[bool, str]]:
    """Require gains of the levels on all MLPs, by domain."""

    def judge(run: Row) -> tuple[bool, str]:
        values = {domain: gain(run, "mlp", domain) for domain in limits}
        return all(values[domain] >= limit for domain, limit in limits.items()), shown(values)

    return judge


def identity(run: Row) -> tuple[bool, str]:
    """Require bit-equal logits before anything is learned."""
    forms = run["identity"]["forms"]["largest_difference"]
    ok = all(value <= (1e-4 if name == "mean of 3" else 0) for name, value in forms.items())
    apart = {name: value for name, value in forms.items() if value}
    return ok, f"{len(forms) - len(apart)} of {len(forms)} bit-equal; {shown(apart, 6)}"


def other_domain(run: Row) -> tuple[bool, str]:
    """Require that what another domain taught is no help."""
    values = {domain: controlled(run, "mlp", "other", domain) for domain in ALL}
    return min(values.values()) >= 0.05, shown(values, 2)


def against_baselines(run: Row) -> tuple[bool, str]:
    """Require to beat LoRA everywhere and to stay near dynamic evaluation."""
    lora = {domain: bits(run, "lora", domain) - bits(run, "mlp", domain) for domain in ALL}
    near = {domain: bits(run, "mlp", domain) - bits(run, "all", domain) for domain in PROSE}
    ok = min(lora.values()) > 0 and max(near["doyle"], near["war"]) <= 0.02 and near["shakespeare"] <= 0.08
    return ok, f"below LoRA by: {shown(lora)}; above all weights by: {shown(near)}"


def short_chunks(run: Row) -> tuple[bool, str]:
    """Require chunk 32 to reach dynamic evaluation at chunk 128; say how it stands at its own chunk size too."""
    values, like = (
        {domain: bits(run, "mlp_32", domain) - bits(run, way, domain) for domain in PROSE} for way in ("all", "all_32")
    )
    return max(values.values()) <= 0.005, f"{shown(values)}; against all weights at chunk 32: {shown(like)}"


def on_stream(run: Row, key: str) -> dict[str, float]:
    """Return online cost, worst and last damage, and what is kept of Shakespeare."""
    row = run["stream"][key]
    return {
        "online": statistics.fmean(row["online"]),
        "worst": max(row["general"]),
        "end": row["general"][-1],
        "kept": -row["kept"]["shakespeare"],
    }


def single_state(run: Row) -> tuple[bool, str]:
    """Require the running mean to learn, keep, and do little damage."""
    v = on_stream(run, "mlp_mean x1")
    return v["online"] <= 2.32 and v["worst"] <= 0.1 and v["end"] <= 0.05 and v["kept"] >= 0.28, shown(v)


def single_state_more(run: Row) -> tuple[bool, str]:
    """Require less damage at the same online cost."""
    v = on_stream(run, "mlp_mean x1")
    return v["online"] <= 2.32 and v["end"] <= 0.02, shown(v)


def archive(run: Row) -> tuple[bool, str]:
    """Require that an archive damages and forgets nothing."""
    row, v, low = run["stream"]["archive x1"], on_stream(run, "archive x1"), on_stream(run, "all x0.1")
    v["forgotten"] = max(row["kept"][d] - row["learned"][d] for d in row["kept"])
    ok = v["worst"] <= 0.005 and v["forgotten"] <= 0.005 and v["kept"] >= 0.4
    return ok and v["online"] < low["online"] and v["worst"] < low["worst"], shown(v)


def archive_more(run: Row) -> tuple[bool, str]:
    """Require an archive to keep what dynamic evaluation at a third of its rate keeps, in every domain."""
    kept, low = run["stream"]["archive x1"]["kept"], run["stream"]["all x0.3"]["kept"]
    values = {domain: low[domain] - kept[domain] for domain in kept}
    return min(values.values()) >= 0, f"kept beyond it: {shown(values)}"


def of_facts(run: Row, part: str = "facts", way: str = "slots x1") -> dict[str, float]:
    """Return what slots did with facts from one exposure."""
    row = run[part][way]
    cost = {f"cost {domain}": statistics.fmean(values) for domain, values in row["cost"].items()}
    return {"rank": statistics.fmean(row["rank"]), "first": statistics.fmean(row["first"]), **cost}


def slots(run: Row) -> tuple[bool, str]:
    """Require facts from one exposure."""
    v = of_facts(run)
    return v["rank"] <= 3.5 and v["first"] >= 11 and v["cost doyle"] <= 0.03, shown(v, 2)


def long_facts(run: Row) -> tuple[bool, str]:
    """Require slots with room for every token to find facts in a long document; show the bounded ones beside them."""
    v = of_facts(run, "facts_long", "slots_room x1")
    bounded = shown(of_facts(run, "facts_long"), 2)
    return v["rank"] <= 2 and v["cost darwin"] <= 0.03, f"{shown(v, 2)}; with 4,096 slots: {bounded}"


def compression(share: float) -> Callable[[Row], tuple[bool, str]]:
    """Require that rank 8 in int8 keeps a share of the gain, for both choices of weights."""

    def judge(run: Row) -> tuple[bool, str]:
        kept = {way: run["compress"][way]["kept"]["8 int8"] for way in ("mlp", "last_down")}
        return min(kept.values()) >= share, shown(kept)

    return judge


def cost(run: Row) -> tuple[bool, str]:
    """Require a cheap lesson, and that carried keys and values cost nothing."""
    ratio = run["cost"]["one reader"]["mlp"] / run["cost"]["one reader"]["streaming"]
    stale = {domain: bits(run, "mlp", domain) - bits(run, "mlp_again", domain) for domain in PROSE}
    return ratio <= 2.5 and max(stale.values()) <= 0.01, f"{ratio:.2f}x; carried minus computed again: {shown(stale)}"


def cheap(run: Row) -> tuple[bool, str]:
    """Require one matrix to cost little."""
    ratio = run["cost"]["one reader"]["last_down"] / run["cost"]["one reader"]["streaming"]
    return ratio <= 1.5, f"{ratio:.2f}x"


READ = tuple(("read", way) for way in ("frozen", "mlp"))
COMPRESS = (("compress", "mlp"), ("compress", "last_down"))
REQUIREMENTS = (
    Requirement(
        "M1 must", "logits bit-equal at first; mean of 3 copies within 1e-4", (("identity", "forms"),), identity
    ),
    Requirement(
        "M2 must",
        "gain on Shakespeare >= .55, Darwin >= .12, Doyle >= .08, the known book >= -.01",
        READ,
        gains({"shakespeare": 0.55, "darwin": 0.12, "doyle": 0.08, "war": -0.01}),
    ),
    Requirement(
        "M2 ambitious",
        ">= .65, .16, .11, .01",
        READ,
        gains({"shakespeare": 0.65, "darwin": 0.16, "doyle": 0.11, "war": 0.01}),
    ),
    Requirement(
        "M3 must",
        "what another domain taught costs >= .05 everywhere",
        (("control", "mlp"), ("read", "frozen")),
        other_domain,
    ),
    Requirement(
        "M4 must",
        "below LoRA on 5 of 5; within .02 of all weights on Doyle and the known book, .08 on Shakespeare",
        (*READ, ("read", "lora"), ("read", "all")),
        against_baselines,
    ),
    Requirement(
        "M4 ambitious",
        "chunk 32 within .005 of all weights at chunk 128, 4 of 4",
        (*READ, ("read", "mlp_32"), ("read", "all"), ("read", "all_32")),
        short_chunks,
    ),
    Requirement(
        "M5 must",
        "mean of fast: online <= 2.32, worst damage <= .10, end <= .05, Shakespeare kept >= .28",
        (("stream", "mlp_mean x1"),),
        single_state,
    ),
    Requirement("M5 ambitious", "end <= .02, online <= 2.32", (("stream", "mlp_mean x1"),), single_state_more),
    Requirement(
        "M6 must",
        "archive: damage <= .005, forgotten <= .005, Shakespeare kept >= .40, better than all weights x.1",
        (("stream", "archive x1"), ("stream", "all x0.1")),
        archive,
    ),
    Requirement(
        "M6 ambitious",
        "archive keeps at least what all weights x.3 keep, in every domain",
        (("stream", "archive x1"), ("stream", "all x0.3")),
        archive_more,
    ),
    Requirement("M7 must", "slots: rank <= 3.5, first >= 11 of 20, cost <= .03", (("facts", "slots x1"),), slots),
    Requirement(
        "M7 ambitious",
        "16k tokens: rank <= 2, cost on Darwin <= .03",
        (("facts_long", "slots x1"), ("facts_long", "slots_room x1")),
        long_facts,
    ),
    Requirement("M8 must", "rank 8 in int8 keeps >= 93 % of the gain", COMPRESS, compression(0.93)),
    Requirement("M8 ambitious", ">= 98 % for both", COMPRESS, compression(0.98)),
    Requirement(
        "M9 must",
        "learning <= 2.5x reading; carried keys within .01 of computing again",
        (*READ, ("read", "mlp_again"), ("cost", "one reader")),
        cost,
    ),
    Requirement("M9 ambitious", "last down-projection <= 1.5x", (("cost", "one reader"),), cheap),
)

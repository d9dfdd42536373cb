"""Short names for what a model repeats: "layers.0-11.mlp" instead of twelve paths."""

from __future__ import annotations

from collections.abc import Iterable


def pattern(path: str) -> str:
    """Return a path with every number replaced by `*`.

    Example:
        >>> pattern("model.layers.11.mlp.experts.3.up")
        'model.layers.*.mlp.experts.*.up'
    """
    return ".".join("*" if part.isdecimal() else part for part in path.split("."))


def container(path: str) -> str:
    """Return the pattern of the list of blocks that a path lies in, or "" where it lies in none.

    Example:
        >>> container("model.layers.11.mlp.up"), container("model.norm")
        ('model.layers.*', '')
    """
    head, star, _ = pattern(path).partition("*")
    return head + star if star else ""


def join(*parts: str) -> str:
    """Join the parts of a path; empty ones are left out."""
    return ".".join(part for part in parts if part)


def shared_name(paths: Iterable[str]) -> str:
    """Return one name for several paths: runs of numbers, and what else differs in braces or as `*`.

    Example:
        >>> shared_name(["layers.0.mlp", "layers.1.mlp", "layers.2.mlp", "layers.5.mlp"])
        'layers.0-2,5.mlp'
        >>> shared_name(["h.0.ln_1", "h.1.ln_1", "h.0.ln_2", "h.1.ln_2"])
        'h.0-1.{ln_1,ln_2}'
        >>> shared_name(["h.0.q", "h.0.k", "h.0.v"])
        'h.0.*'
    """
    paths = list(paths)
    forms = [form.split(".") for form in dict.fromkeys(map(pattern, paths))]
    head: list[str] = []
    for parts in zip(*forms, strict=False):
        if len(set(parts)) > 1:
            break
        head.append(parts[0])
    tails = [".".join(form[len(head) :]) for form in forms]
    numbered = [
        runs({int(path.split(".")[i]) for path in paths}) if part == "*" else part for i, part in enumerate(head)
    ]
    if len(tails) == 1:
        return ".".join(numbered)
    limit = 2 if head else 3
    tail = ",".join(tails) if len(tails) <= limit and all(tails) and "*" not in "".join(tails) else "*"
    return join(*numbered, f"{{{tail}}}" if "," in tail and head else tail)


def runs(numbers: Iterable[int]) -> str:
    """Write whole numbers as runs.

    Example:
        >>> runs([0, 1, 2, 5, 7, 8])
        '0-2,5,7-8'
    """
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in parts)

"""The description of a model as aligned plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everlearn.levels.component import Component
    from everlearn.levels.system import NestedSystem

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def table(system: NestedSystem) -> str:
    """Return a line on the whole, a table of the levels, a table of what learns, and the notes.

    Args:
        system: what `describe` returned.
    """
    parts = [summary(system), _columns(_level_rows(system), right=(4, 5)), _columns(_learning_rows(system))]
    if system.notes:
        parts.append("\n".join(f"note: {note}" for note in system.notes))
    return "\n\n".join(parts)


def summary(system: NestedSystem) -> str:
    """Return one line: name, depth, parameters, and what a row and the optimizers keep."""
    under = f" under {' and '.join(system.optimizers)}" if system.optimizers else ""
    kept = f"; the optimizer keeps {size(system.optimizer_bytes)}" if system.optimizer_bytes else ""
    depth = f"{system.depth} nested level{'' if system.depth == 1 else 's'}"
    return (
        f"{system.name}{under}: {depth}; {system.parameters:,} parameters "
        f"({size(system.parameter_bytes)}); a row carries {size(system.state_bytes)} after "
        f"{system.context:,} tokens{kept}"
    )


def size(count: int) -> str:
    """Write a number of bytes.

    Example:
        >>> size(0), size(36864), size(497759232)
        ('0 B', '36.0 KiB', '474.7 MiB')
    """
    power = 0
    while count >= 1024 ** (power + 1) and power < len(UNITS) - 1:
        power += 1
    return f"{count} B" if power == 0 else f"{count / 1024**power:.1f} {UNITS[power]}"


def state(component: Component, context: int) -> str:
    """Write what a component holds, and how that grows; "-" for parameters.

    Args:
        component: from any level.
        context: tokens that the row has read.
    """
    if not component.is_memory:
        return "-"
    if component.shared:
        return size(component.state_bytes)
    grows = f" ({component.token_bytes:,} B/token" if component.token_bytes else ""
    limit = f", {component.max_tokens:,} kept" if grows and component.max_tokens is not None else ""
    once = ", one forward" if not component.carried else ""
    detail = f"{grows}{limit}{once})" if grows else f" ({once.removeprefix(', ')})" if once else ""
    return size(component.held(context)) + detail


def _level_rows(system: NestedSystem) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("level", "changes", "component", "kind", "parameters", "state")]
    for level in system.levels:
        for i, component in enumerate(level.components):
            head = (str(level.number), level.title) if i == 0 else ("", "")
            count = f"{component.parameters:,}" if component.parameters else "-"
            rows.append((*head, component.name, component.kind, count, state(component, system.context)))
    return rows


def _learning_rows(system: NestedSystem) -> list[Sequence[str]]:
    """List what each level compresses; components that learn alike share a line."""
    rows: list[Sequence[str]] = [("level", "compresses", "objective", "rule", "starts from")]
    for level in system.levels:
        lines = {(c.context_flow, c.objective, c.rule, ", ".join(c.start_from) or "-"): None for c in level.components}
        rows += [(str(level.number) if i == 0 else "", *line) for i, line in enumerate(lines)]
    return rows


def _columns(rows: list[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Align the columns; the first row is the head and gets a rule below it."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows = [rows[0], ["-" * width for width in widths], *rows[1:]]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        lines.append("  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(cells)))
    return "\n".join(line.rstrip() for line in lines)

"""Figures as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def interval(figure: Mapping[str, float]) -> str:
    """A figure and its interval: 0.881 (0.871 to 0.890)."""
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def points(difference: float) -> str:
    return f"{100 * difference:+.2f}"


def spread(figure: Mapping[str, Any]) -> str:
    return f"{figure['mean']:.4f}" + ("" if figure["deviation"] is None else f" ± {figure['deviation']:.4f}")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a bar inside a cell is escaped, as topics have them."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

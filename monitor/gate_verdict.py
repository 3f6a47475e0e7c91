"""What the gate says of a challenger: every figure that it went by, as people read it and as JSON keeps it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

Found = Literal["better", "holds", "fails", "shown"]
"""Of a row: better beyond chance, within its bound, beyond it, or not judged by."""
Unit = Literal["share", "bytes", "seconds"]

_HEAD: Final = (
    "measure", "set", "labels", "champion", "challenger", "difference", "95 % interval", "bound", "found",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of both models.

    Attributes:
        set: what it was measured on: `reference`, `newest`, or empty where it is no matter of labels.
        labels: how many labels, or texts, it rests on.
        champion: None where there is nothing to set beside the challenger's.
        difference: of a share, the challenger's less what it is compared with; else how many times the champion's.
        low, high: ends of the 95 % interval of the difference; None where chance has no part in it.
        bound: the least difference of a share, or the most of another unit, that is borne; None: not bounded.
    """

    measure: str
    set: str = ""
    labels: int
    unit: Unit = "share"
    champion: float | None
    challenger: float
    difference: float
    low: float | None = None
    high: float | None = None
    bound: float | None = None
    found: Found

    @property
    def on(self) -> str:
        """Which set, where it is of one."""
        return f" on the {self.set} set" if self.set else ""

    def told(self) -> str:
        """The figures as part of a sentence."""
        before = "" if self.champion is None else f"{_figure(self.champion, self.unit)} to "
        of = f", {self.labels:,} labels" if self.set else ""
        chance = (
            ""
            if self.low is None or self.high is None
            else f", 95 % interval {_change(self.low, self.unit)} to {_change(self.high, self.unit)}"
        )
        bound = "" if self.bound is None or self.found != "fails" else f", {_bound(self)} is borne"
        return (
            f"{self.measure}{self.on} {before}{_figure(self.challenger, self.unit)} "
            f"({_change(self.difference, self.unit)}{chance}{of}{bound})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a challenger may go on, why, and what was measured.

    Attributes:
        reason: one sentence, with the figures that decided.
        rows: empty where the models cannot be compared.
    """

    passed: bool
    reason: str
    rows: tuple[Row, ...]

    def text(self) -> str:
        """The rows as a table, for people; empty where there are none."""
        cells = [_HEAD, *(_cells(row) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = []
        for line in cells if self.rows else ():
            padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            lines.append("  ".join(padded).rstrip() + "\n")
        return "".join(lines)

    def plain(self) -> dict[str, Any]:
        """As JSON keeps it; `read` is its inverse."""
        return {"passed": self.passed, "reason": self.reason, "rows": [asdict(row) for row in self.rows]}

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> "Verdict":
        """What `plain` gave."""
        return cls(passed=plain["passed"], reason=plain["reason"], rows=tuple(Row(**row) for row in plain["rows"]))


def _figure(value: float, unit: Unit) -> str:
    if unit == "bytes":
        return f"{value / 1e6:.1f} MB"
    return f"{value * 1e3:.2f} ms" if unit == "seconds" else f"{value:.4f}"


def _change(value: float, unit: Unit) -> str:
    """A difference of shares, or a ratio of anything else."""
    return f"{value:+.4f}" if unit == "share" else f"{value:.2f} times"


def _bound(row: Row) -> str:
    if row.bound is None:
        return ""
    return f"at {'least' if row.unit == 'share' else 'most'} {_change(row.bound, row.unit)}"


def _cells(row: Row) -> tuple[str, ...]:
    ends = [row.low, row.high]
    return (
        row.measure,
        row.set,
        f"{row.labels:,}" if row.labels else "",
        "" if row.champion is None else _figure(row.champion, row.unit),
        _figure(row.challenger, row.unit),
        _change(row.difference, row.unit),
        " to ".join(_change(end, row.unit) for end in ends if end is not None),
        _bound(row),
        row.found,
    )

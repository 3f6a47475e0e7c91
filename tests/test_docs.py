"""What the README says of settings, metrics, commands and files is what the code has."""

import json
import re
from pathlib import Path

import pytest
from typer.main import get_command

from monitor import cli, config, labels, records
from monitor.metrics import Metrics
from monitor.model import checkpoint
from pipelines.report import render

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _table(heading: str) -> list[list[str]]:
    """The rows of the first table under a heading, without its head."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [_cells(line) for line in section.splitlines() if line.startswith("|")][2:]


def _settings_rows() -> list[list[str]]:
    return [
        [f"`{key}`", f"`{default}`".replace("|", r"\|"), description.replace("|", r"\|")]
        for key, default, description in config.documented()
    ]


def _metrics_rows() -> list[list[str]]:
    rows = []
    for family in Metrics().registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(getattr(_collector(family.name), "_labelnames", ()))
        rows.append([f"`{name}`", family.type, labels, family.documentation])
    return rows


def _collector(family: str) -> object:
    metrics = Metrics()
    known = (*vars(metrics).values(), *vars(metrics.retraining).values())
    return next(value for value in known if getattr(value, "_name", None) == family)


def test_every_setting_stands_in_the_readme_with_its_default_and_meaning() -> None:
    expected = _settings_rows()
    assert _table("Settings") == expected, "\n" + "\n".join(f"| {' | '.join(row)} |" for row in expected)


def test_every_metric_stands_in_the_readme_with_its_labels_and_meaning() -> None:
    expected = _metrics_rows()
    assert _table("Metrics") == expected, "\n" + "\n".join(f"| {' | '.join(row)} |" for row in expected)


def test_every_metric_begins_with_the_monitors_name() -> None:
    assert [family.name for family in Metrics().registry.collect() if not family.name.startswith("sentiment_")] == []


def test_every_command_stands_in_the_readme() -> None:
    commands = set(get_command(cli.app).commands)  # type: ignore[attr-defined]
    assert commands == {"demo", "run", "score", "backtest", "replay", "label", "models", "check"}
    assert {row[0].strip("`").split()[0] for row in _table("Commands")} == commands


def test_every_key_of_the_record_stands_in_the_readme() -> None:
    keys = {key for row in _table("News records") for key in re.findall(r"`(\w+)`", row[0])}
    assert keys == set(records.NewsItem.__dataclass_fields__)


def test_every_key_of_a_record_of_labels_stands_in_the_readme() -> None:
    assert {key for row in _table("Labels") for key in re.findall(r"`(\w+)`", row[0])} == set(labels.KEYS)


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    mentioned = set(re.findall(r"\bmake ([a-z-]+)\b", README))
    assert mentioned <= targets
    assert {"demo", "test"} <= mentioned


def test_every_file_of_the_map_exists_and_every_module_is_on_it() -> None:
    block = README.split("\n## File map\n", 1)[1].split("```")[1]
    listed = {line.split()[0] for line in block.splitlines() if line.strip() and "/" in line.split()[0]}
    assert [name for name in sorted(listed) if not (ROOT / name).exists()] == []
    modules = {
        str(path.relative_to(ROOT))
        for package in ("monitor", "pipelines")
        for path in (ROOT / package).rglob("*.py")
        if path.stem != "__init__" and "migrations" not in path.parts
    }
    assert modules - listed == set()


def test_the_figures_of_the_model_are_those_of_its_report() -> None:
    report = json.loads((ROOT / "docs" / "model" / "report.json").read_text(encoding="utf-8"))
    assert report["model"]["version"] == checkpoint.read("default").info.version
    card = (checkpoint.DEFAULT / "README.md").read_text(encoding="utf-8")
    for task, section in report["tasks"].items():
        figures = (
            f"{section['accuracy']['value']:.4f}",
            f"{section['macro_f1']['value']:.4f}",
            f"{section['after']['calibration_error']['value']:.3f}",
            f"{section['rows']:,}",
        )
        row = rf"^\| {task}.* \| " + r" \| ".join(map(re.escape, figures)) + r" \|$"
        assert re.search(row, card, re.MULTILINE), f"{task} in the card: {figures}"
        assert re.search(row, README, re.MULTILINE), f"{task} in the README: {figures}"


def test_the_report_of_the_model_is_as_its_figures_are_written() -> None:
    report = json.loads((ROOT / "docs" / "model" / "report.json").read_text(encoding="utf-8"))
    document = (ROOT / "docs" / "model" / "report.md").read_text(encoding="utf-8")
    assert document == render(report)
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", document)
    assert pictures
    assert [name for name in pictures if not (ROOT / "docs" / "model" / name).exists()] == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("deploy/*.toml")), ids=lambda path: path.name)
def test_a_shipped_configuration_is_valid(path: Path) -> None:
    assert config.load(path).source.kind == "kafka"


def test_the_changelog_has_unreleased_on_top() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"

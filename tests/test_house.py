"""The rules of the house: which module may import which, and through which door a library comes in."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("monitor", "pipelines")

# Each layer may import the ones before it, and no other part of its own.
FOUNDATIONS = {
    "monitor",
    "monitor.records",
    "monitor.wire",
    "monitor.config",
    "monitor.cron",
    "monitor.desk_settings",
    "monitor.drift",
    "monitor.entities",
    "monitor.label_settings",
    "monitor.labels",
    "monitor.rebase",
    "monitor.retrain_settings",
    "monitor.retraining",
    "monitor.source_settings",
    "monitor.spike_settings",
    "monitor.tables",
    "monitor.gate_verdict",
}
MODEL = ("network", "encoder", "checkpoint", "quantize", "text", "export", "backends", "scorer", "explain")
PARTS = {
    "sources": {"monitor.sources", "monitor.sources.files", "monitor.sources.kafka", "monitor.sources.publisher"},
    "model": {f"monitor.model.{name}" for name in MODEL},
    "store": {
        *("monitor.store", "monitor.batches", "monitor.positions", "monitor.stored_labels", "monitor.models"),
        *("monitor.stored_retrainings", "monitor.stored_deliveries"),
        "monitor.stored_drift",
        "monitor.stored_schedule",
        *("monitor.database", "monitor.schema", "monitor.rows", "monitor.migrations.env"),
    },
    "stories": {"monitor.stories"},
    "watchlist": {"monitor.watchlist"},
    "trends": {"monitor.trends"},
    "spikes": {"monitor.spikes", "monitor.gates", "monitor.shares", "monitor.volumes", "monitor.spells"},
    "alerting": {"monitor.alerting", "monitor.grouping", "monitor.delivery", "monitor.silences"},
    "evidence": {"monitor.evidence"},
    "calendar": {"monitor.calendars"},
    "label_queue": {"monitor.label_queue"},
    "metrics": {"monitor.metrics", "monitor.retraining_metrics"},
    "estimates": {"monitor.estimates", "monitor.alert_scores", "monitor.measures"},
    "figures": {"monitor.figures"},
}
ABOVE = [
    {"monitor.evaluation", "monitor.following", "monitor.labelling", "monitor.retraining_figures"},
    {"monitor.engine"},
    {
        "monitor.web",
        "monitor.web.app",
        "monitor.web.labels",
        "monitor.history",
        "monitor.champion",
        "monitor.children",
        "monitor.retraining_schedule",
        "monitor.schedule",
        "monitor.shadow",
        "monitor.verdicts",
    },
    {"monitor.daemon", "monitor.demo"},
    {"monitor.output", "monitor.inputs"},
    {"monitor.labelling_commands", "monitor.model_commands", "monitor.model_listing"},
    {"monitor.tuning", "monitor.tuning_report", "monitor.tuning_picture"},
    {"monitor.backtest"},
    {"monitor.cli"},
    {"monitor.__main__"},
]

DOORS = {
    "kafka": ("monitor/sources/kafka.py", "monitor/sources/publisher.py"),
    "prometheus_client": ("monitor/metrics.py", "monitor/retraining_metrics.py"),
    "sqlalchemy": (
        "monitor/store.py",
        "monitor/batches.py",
        "monitor/positions.py",
        "monitor/stored_labels.py",
        "monitor/models.py",
        "monitor/stored_deliveries.py",
        "monitor/stored_retrainings.py",
        "monitor/stored_drift.py",
        "monitor/stored_schedule.py",
        "monitor/database.py",
        "monitor/schema.py",
        "monitor/rows.py",
        "monitor/migrations/",
    ),
    "alembic": ("monitor/database.py", "monitor/migrations/"),
    "apscheduler": ("monitor/schedule.py", "monitor/cron.py", "monitor/stored_schedule.py"),
    "exchange_calendars": ("monitor/calendars.py",),
    "captum": ("monitor/model/explain.py",),
    "rapidfuzz": ("monitor/stories.py",),
    "rensa": ("monitor/stories.py",),
    "torch": ("monitor/model/", "pipelines/"),
    "transformers": ("monitor/model/", "pipelines/"),
}


def _files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too; `from a import b` counts as a.b where that is one."""
    modules = {_module(file) for file in _files()}
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else str(node.module) for name in names}
    return found


def _allowed(module: str) -> set[str]:
    if module in FOUNDATIONS:
        return FOUNDATIONS
    for part in PARTS.values():
        if module in part:
            return FOUNDATIONS | part
    below = FOUNDATIONS.union(*PARTS.values())
    for layer in ABOVE:
        if module in layer:
            return below | layer
        below |= layer
    return below  # migrations' revisions, pipelines


@pytest.mark.parametrize("path", _files(), ids=_module)
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    module = _module(path)
    ours = {name for name in _imports(path) if name.split(".")[0] in PACKAGES}
    allowed = _allowed(module)
    if module.startswith("pipelines"):
        allowed = allowed | {_module(file) for file in _files() if _module(file).startswith("pipelines")}
    assert ours - allowed - {module} == set()


@pytest.mark.parametrize(("library", "doors"), DOORS.items(), ids=DOORS)
def test_a_library_comes_in_through_its_door_alone(library: str, doors: tuple[str, ...]) -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in _files()
        if any(name.split(".")[0] == library for name in _imports(path))
    }
    assert {user for user in users if not user.startswith(doors)} == set()
    assert users, f"nothing uses {library}: take it out of the dependencies"


def test_every_module_has_a_place_in_the_layers() -> None:
    placed = FOUNDATIONS.union(*PARTS.values(), *ABOVE)
    free = {"monitor.sources", "monitor.model", "monitor.web", "monitor.migrations"}
    known = {_module(path) for path in _files() if _module(path).startswith("monitor")}
    assert {m for m in known - placed - free if not m.startswith("monitor.migrations")} == set()
    assert placed - known == set()


def test_no_file_is_longer_than_400_lines() -> None:
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in _files()}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}

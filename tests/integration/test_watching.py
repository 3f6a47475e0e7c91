"""What watches retraining, in the real servers: alert rules, the dashboard's queries, the Pushgateway."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor.config import RetrainSettings, Settings
from monitor.metrics import Metrics
from monitor.retraining_figures import push_figures
from monitor.store import Store
from tests.integration.servers import DASHBOARD, RULES, Prometheus, Pushgateway

pytestmark = pytest.mark.integration


def _known() -> set[str]:
    """The names of the metrics' samples."""
    families = list(Metrics().registry.collect())
    return {family.name for family in families} | {f"{family.name}_total" for family in families}


def _named(expressions: str) -> set[str]:
    return set(re.findall(r"\bsentiment_\w+", expressions))


def _expressions() -> list[str]:
    """Every query of the dashboard."""
    board = json.loads(DASHBOARD.read_text())
    queries: list[dict[str, Any]] = [target for panel in board["panels"] for target in panel.get("targets", ())]
    return [query["expr"] for query in (*queries, *board["annotations"]["list"])]


def test_each_alert_fires_when_it_should_and_at_no_other_time(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("Prometheus NOT TESTED: there is no promtool on PATH; `make services` installs it")
    rules, cases = (
        yaml.safe_load(RULES.read_text()),
        yaml.safe_load(Path(__file__).with_name("rules_test.yml").read_text()),
    )
    alerts = {rule["alert"]: rule["annotations"] for group in rules["groups"] for rule in group["rules"]}
    tested = [case for test in cases["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in tested if case["exp_alerts"]} == set(alerts)
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        # What they say is for people; the test is about when.
        rule["annotations"] = {}
    shutil.copy(Path(__file__).with_name("rules_test.yml"), tmp_path)
    (tmp_path / RULES.name).write_text(yaml.safe_dump(rules))
    done = subprocess.run(
        ["promtool", "test", "rules", "rules_test.yml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_says_what_to_do_and_goes_by_metrics_that_there_are() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    assert [rule["alert"] for rule in rules if set(rule["annotations"]) != {"summary", "runbook"}] == []
    assert _named(" ".join(rule["expr"] for rule in rules)) - _known() == set()


def test_each_query_of_the_dashboard_is_one_and_goes_by_metrics_that_there_are(
    prometheus: Callable[..., Prometheus],
) -> None:
    assert _named(" ".join(_expressions())) - _known() == set()
    board = json.loads(DASHBOARD.read_text())
    assert [panel["title"] for panel in board["panels"] if panel["type"] == "row"] == ["Model and retraining"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places)
    server = prometheus("127.0.0.1:9")
    for expression in _expressions():
        server.query(expression)


def test_a_retraining_outside_the_daemon_tells_a_pushgateway(pushgateway: Pushgateway, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'news.db'}"
    settings = Settings(retrain=RetrainSettings(pushgateway=pushgateway.url))
    with Store(url) as store:
        push_figures(settings, store, {"instance": "trainer"})
    pushed = pushgateway.metrics()
    sample = re.search(r"^sentiment_retraining_step\{(.*step=\"train\".*)\} 0$", pushed, re.MULTILINE)
    assert sample is not None
    assert 'instance="trainer"' in sample[1]
    assert 'job="sentiment-retraining"' in sample[1]

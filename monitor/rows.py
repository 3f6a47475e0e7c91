"""The rows of the database that values become, and the values that they are read back as."""

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping

from monitor.records import Alert, Entry, Evidence, NewsItem, Scored, Series, Severity

_SERIES = ("part_of", "explained_by", "apart_from")


def item_row(source: str, entry: Entry, now: datetime) -> dict[str, Any]:
    scored = entry.scored
    return {
        "id": scored.item.id,
        "stream": source,
        "partition": entry.partition,
        "offset": entry.offset,
        "title": scored.item.title,
        "body": scored.item.body,
        "publisher": scored.item.source,
        "url": scored.item.url,
        "language": scored.item.language,
        "published_at": scored.item.published_at,
        "event_at": entry.event_at,
        "stored_at": now,
        "story": entry.story,
        "topic": scored.topic,
        "sentiment": scored.sentiment,
        "sentiment_score": scored.sentiment_score,
        "topic_probs": dict(scored.topic_probs),
        "sentiment_probs": dict(scored.sentiment_probs),
        "model": scored.model,
        "late": entry.late,
        "copy": entry.copy,
        "negative": entry.negative,
    }


def entity_rows(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    return [
        {"item_id": entry.scored.item.id, "name": name, "event_at": entry.event_at}
        for entry in entries
        for name in dict.fromkeys(entry.entities)
    ]


def alert_row(alert: Alert) -> dict[str, Any]:
    row = {field.name: getattr(alert, field.name) for field in fields(Alert) if field.name != "series"}
    evidence = [asdict(one) | {"published_at": one.published_at.isoformat()} for one in alert.evidence]
    row |= {name: None if row[name] is None else list(row[name]) for name in _SERIES}
    row |= {"also": list(map(list, alert.also))}
    return row | alert.series._asdict() | {"id": alert.id, "evidence": evidence}


def alert_of(row: RowMapping) -> Alert:
    values = {field.name: row[field.name] for field in fields(Alert) if field.name != "series"}
    evidence = (one | {"published_at": datetime.fromisoformat(one["published_at"])} for one in row["evidence"])
    told = (one | {"publishers": tuple(one.get("publishers", ()))} for one in evidence)
    values |= {"evidence": tuple(Evidence(**one) for one in told)}
    values |= {name: tuple(row[name]) for name in ("band", "models", "words", "entities", "notes")}
    values |= {"in_all": None if row["in_all"] is None else tuple(row["in_all"])}
    values |= {name: None if row[name] is None else Series(*row[name]) for name in _SERIES}
    values |= {"also": tuple(Series(*series) for series in row["also"])}
    return Alert(series=Series(row["dimension"], row["name"]), **values)


def relabelled(alert: Alert, severity: Severity | None, follows: str | None) -> Alert:
    """The alert under the labels of a row of `deliveries`; as it is where that has none."""
    if severity is not None and severity != alert.severity:
        alert = replace(alert, severity=severity, escalated_at=None)
    return alert if severity is None or follows == alert.follows else replace(alert, follows=follows, left_at=None)


def scored_of(row: RowMapping) -> Scored:
    """An item with what the model said of it, of a row of `items` or `labelled_items`."""
    item = NewsItem(
        id=row["id"],
        title=row["title"],
        published_at=row["published_at"],
        body=row["body"],
        source=row["publisher"],
        url=row["url"],
        language=row["language"],
    )
    probs = row["topic_probs"], row["sentiment_probs"]
    return Scored(item, row["topic"], row["sentiment"], *probs, row["model"])

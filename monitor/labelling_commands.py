"""The command `label`: labels from a file, and the items that are most worth labelling."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from monitor import config
from monitor.inputs import ConfigOption, count_lines, records_of
from monitor.labels import KEYS, REQUIRED_KEYS, TASKS, LabelledItem, agreement, majority, votes_by_item
from monitor.output import Misuse, note, parsed_columns, progress_bar, rejections, written
from monitor.records import RawRecord
from monitor.sources import Form

if TYPE_CHECKING:
    from monitor.labelling import Parsed, Receipt, Wanted

_LABELS: Final = Form("record of labels", KEYS, REQUIRED_KEYS, blanks=True)


def label(
    file: Annotated[
        str | None,
        typer.Argument(
            help="Labels: JSON Lines or CSV with id, by, and task and label, or topic and sentiment; - "
            "reads JSON Lines from standard input."
        ),
    ] = None,
    queue: Annotated[
        int | None, typer.Option(min=1, help="Instead: list so many items that are most worth labelling.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where to write that list; without it, standard output.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="For CSV: record key=column pairs, e.g. id=item,by=analyst.")
    ] = None,
    days: Annotated[
        int | None, typer.Option(min=1, help="List items of so many days; without it, labels.queue_days.")
    ] = None,
    *,
    strict: Annotated[bool, typer.Option(help="Exit with code 1 if a record was rejected.")] = False,
    config_path: ConfigOption = None,
) -> None:
    """Store what people say of items, or list the items on which their word is worth most."""
    settings = config.load(config_path)
    if queue is not None:
        if file is not None:
            raise Misuse(f"--queue: lists items, and {file} holds labels; give one of the two")
        _list(settings, queue, settings.labels.queue_days if days is None else days, output)
        return
    if file is None:
        raise Misuse("nothing to do: give a FILE of labels to store, or --queue N to list N items worth labelling")
    for option, value in (("--output", output), ("--days", days)):
        if value is not None:
            raise Misuse(f"{option}: is for --queue N, and {file} is read, not written; leave it out")
    receipt = _store(settings, file, columns)
    if strict and receipt.rejected:
        raise typer.Exit(1)


def _store(settings: config.Settings, file: str, columns: str | None) -> "Receipt":
    """Store a file of labels, and say what became of them."""
    from monitor.labelling import parsed, take
    from monitor.store import Store

    records: list[RawRecord] = []
    said: list[Parsed] = []
    with ExitStack() as life:
        given = records_of(file, parsed_columns(columns), _LABELS)
        store = life.enter_context(Store(settings.store.url))
        progress = life.enter_context(progress_bar("records"))
        task = progress.add_task("reading", total=count_lines(file))
        now = datetime.now(UTC)
        for record in given:
            # Labels are few and small beside news; what they come from is kept, to name its line.
            records.append(RawRecord(record.partition, record.offset, b""))
            said.append(parsed(record.value, now))
            progress.update(task, completed=record.offset + 1)
        progress.update(task, description="storing")
        receipt = take(store, said, now)
        tell = rejections(file, progress.console)
        for place, error in receipt.rejected.items():
            tell(records[place], error)
        progress.stop()
        _sum_up(receipt, len(records), store.labels.labelled())
    return receipt


def _sum_up(receipt: "Receipt", records: int, labelled: Sequence[LabelledItem]) -> None:
    parts = [f"{len(receipt.stored):,} labels stored", f"{len(receipt.repeated):,} stored before"]
    if receipt.blank:
        parts.append(f"{receipt.blank:,} of the {records:,} records blank")
    reasons = Counter(error.reason for error in receipt.rejected.values()).most_common()
    why = f" ({', '.join(f'{count:,} {reason}' for reason, count in reasons)})" if reasons else ""
    note(f"{', '.join(parts)}, {len(receipt.rejected):,} of the {records:,} records rejected{why}")
    for task in TASKS:
        same = total = 0
        several = []
        for item in labelled:
            if votes := votes_by_item(item.labels).get((item.scored.item.id, task)):
                total += 1
                same += majority(votes).label == getattr(item.scored, task)
                several += [[vote.label for vote in votes]] if len(votes) > 1 else []
        if not total:
            continue
        alpha = agreement(several)
        people = f"{len(several):,} labelled by several people"
        agreed = people if isnan(alpha) else f"{people}, who agree with Krippendorff's alpha {alpha:.2f}"
        note(f"{task}: {total:,} items labelled, of {same:,} the model had said the same; {agreed}")


def _list(settings: config.Settings, items: int, days: int, output: Path | None) -> None:
    """Write the items that are most worth labelling, as forms to fill in."""
    from monitor.labelling import queue
    from monitor.store import Store

    with ExitStack() as life:
        out = life.enter_context(written(output, "-"))
        store = life.enter_context(Store(settings.store.url))
        progress = life.enter_context(progress_bar("items"))
        task = progress.add_task("looking through", total=None)
        wanted = queue(store, items, days, lambda done, total: progress.update(task, completed=done, total=total))
        for one in wanted:
            out.write(json.dumps(_form(one), ensure_ascii=False) + "\n")
    if len(wanted) < items:
        note(
            f"{len(wanted):,} items: there are no more stories that nobody labelled in the newest {days} days of news"
        )


def _form(wanted: "Wanted") -> dict[str, Any]:
    """An item as a form to fill in: what `label` reads, blank, with what a person needs to know of it."""
    scored = wanted.scored
    known = {
        "id": scored.item.id,
        "title": scored.item.title,
        "body": scored.item.body,
        "published_at": scored.item.published_at.isoformat().replace("+00:00", "Z"),
        "source": scored.item.source,
        "url": scored.item.url,
        "model": scored.model,
        "model_topic": scored.topic,
        "model_topic_prob": round(scored.topic_probs[scored.topic], 4),
        "model_sentiment": scored.sentiment,
        "model_sentiment_prob": round(scored.sentiment_probs[scored.sentiment], 4),
        "uncertainty": round(wanted.uncertainty, 4),
    }
    return {key: value for key, value in known.items() if value is not None} | {
        "topic": "",
        "sentiment": "",
        "by": "",
    }

"""News from a Kafka topic, read as one worker of a consumer group.

The database, not Kafka, remembers how far each partition was read: positions are taken from it whenever partitions
are assigned, and Kafka's committed offsets are written for lag tools alone.
"""

import logging
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.errors import KafkaError, LogTruncationError, OffsetOutOfRangeError
from kafka.future import Future

from monitor.config import KafkaSettings
from monitor.records import Batch, PositionUpdate, RawRecord, RecordError
from monitor.sources import ReadPositions, SourceError
from monitor.sources.publisher import REQUEST_TIMEOUT_MS, Publisher, connected, source_error, told

DEAD_LETTER_MAX_BYTES: Final = 1_000_000
"""Longest value of a dead letter: with its headers it stays below what a broker takes by default (1 MiB)."""

_LAST_COMMIT_TIMEOUT_MS = 1_000
_LAG_REFRESH_S, _LAG_RETRY_S = 1.0, 10.0
_EVERYTHING = 1_000_000  # what was fetched is taken at once and shared out here: every batch mixes the partitions
_AHEAD_BATCHES = 2  # a partition with less than so many waiting asks for more, to arrive while these are scored

log = logging.getLogger(__name__)


class KafkaSource:
    """One worker's share of a topic.

    Call it from one thread. A batch counts as stored once `committed` was called with it; a poll before that gives
    the batch up, and those that followed it, and their partitions are read again from where the database says that
    they stand. So a worker whose batch was refused because another one had taken over just polls again.

    Attributes:
        name: `kafka:TOPIC`, under which the store keeps the positions.
        expired: records that retention deleted before they were read, so far.

    Args:
        read_positions: gives the database's position of partitions; what it raises passes through `poll`, which can
            then be called again.
        max_poll_interval_s: silence, neither `poll` nor `hold`, after which the group gives the partitions away.

    Raises:
        SourceError: no broker answers, the topic does not exist, or access is refused.
    """

    def __init__(
        self, settings: KafkaSettings, read_positions: ReadPositions, *, max_poll_interval_s: float = 300.0
    ) -> None:
        self.name = f"kafka:{settings.topic}"
        self.expired = 0
        self._settings = settings
        self._read_positions = read_positions
        self._max_poll_interval_s = max_poll_interval_s
        self._partitions: dict[int, _Partition] = {}
        self._ends: dict[int, int] = {}
        self._ends_due_at, self._away = 0.0, ""
        self._untold: dict[TopicPartition, OffsetAndMetadata] = {}
        self._telling: Future | None = None
        self._turn = 0
        self._failed = False
        self._dead_letters: Publisher | None = None
        self._consumer = self._connected()

    def poll(self, max_items: int, linger_s: float, wait_s: float) -> Batch:
        """Wait at most `wait_s` for a first record, then at most `linger_s` for more, up to `max_items`.

        A broker that is away gives empty batches until it is back.

        Raises:
            SourceError: the topic cannot be read, and will not be without somebody's help; then a poll goes on.
        """
        self._unsettle(*(partition for partition, state in self._partitions.items() if state.in_hand))
        deadline = time.monotonic() + wait_s
        lingering = False
        while True:
            enough = self._buffered() >= max_items
            self._fetch(max_items, 0.0 if enough else max(0.0, deadline - time.monotonic()))
            ready = self._buffered()
            if ready and not lingering:
                lingering = True
                deadline = time.monotonic() + linger_s
            if ready >= max_items or time.monotonic() >= deadline:
                return self._batch(max_items)

    def ahead(self, max_items: int) -> Batch:
        """More of what has arrived, to be scored while the batches in hand are stored in their order; never waits.
        Nothing while partitions are being taken over, which takes a poll. Raises as `poll`."""
        self._fetch(max_items, 0.0, settle=False)
        return self._batch(max_items) if all(state.settled for state in self._partitions.values()) else Batch()

    def hold(self) -> None:
        """Keep this worker's place in the group without reading; the next poll reads on, or says why it cannot."""
        with suppress(SourceError):
            self._fetch(0, 0.0, settle=False)

    def reject(self, record: RawRecord, error: RecordError) -> None:
        """Send a record's key and bytes to the dead letter topic and wait until the brokers have them.

        The headers are `reason`, `message`, `topic`, `partition` and `offset`, and `cut_from_bytes`, its length,
        where only the first megabyte could be kept. After a crash a record can be rejected, and so found, twice.

        Raises:
            SourceError: the brokers did not take it; the batch must not be stored, or the record would be lost.
        """
        if self._dead_letters is None:
            self._dead_letters = Publisher(self._settings, self._settings.dead_letter_topic)
        original = record.value if record.original is None else record.original
        headers = {
            "reason": error.reason,
            "message": str(error),
            "topic": self._settings.topic,
            "partition": str(record.partition),
            "offset": str(record.offset),
        }
        if len(original) > DEAD_LETTER_MAX_BYTES:
            headers["cut_from_bytes"] = str(len(original))
        self._dead_letters.send(original[:DEAD_LETTER_MAX_BYTES], record.key, headers)
        self._dead_letters.flush()

    def committed(self, batch: Batch) -> None:
        """Note that a batch was stored, and tell Kafka, for its lag tools; a failure there is only logged."""
        for position in batch.positions:
            state = self._partitions.get(position.partition)
            if state is not None and state.in_hand:
                state.in_hand -= 1
                self._untold[self._topic_partition(position.partition)] = OffsetAndMetadata(position.next, "", -1)
        self._tell_kafka()

    def lag(self) -> Mapping[int, int]:
        """Records not read yet, by partition, as of a second ago at most; all of it for one just being taken over.

        Raises:
            SourceError: the brokers are away. To say 0 would let event time run on, past what waits there to be read.
        """
        now = time.monotonic()
        if self._partitions and now >= self._ends_due_at:
            assigned = list(map(self._topic_partition, self._partitions))
            try:
                ends = self._consumer.end_offsets(assigned, timeout_ms=REQUEST_TIMEOUT_MS)
                self._ends = {place.partition: end for place, end in ends.items()}
                for partition, state in self._partitions.items():
                    # It moves without a record where a transaction was aborted.
                    state.position = self._consumer.position(self._topic_partition(partition), timeout_ms=0)
                self._ends_due_at, self._away = now + _LAG_REFRESH_S, ""
            except (OffsetOutOfRangeError, LogTruncationError) as error:
                self._take_up_anew(error)
            except KafkaError as error:
                self._ends_due_at, self._away = now + _LAG_RETRY_S, str(source_error(self._settings, error))
        if self._away:
            raise SourceError(self._away)
        known = sorted(self._partitions.keys() & self._ends.keys())
        return {partition: max(0, self._ends[partition] - self._partitions[partition].next) for partition in known}

    def exhausted(self) -> bool:
        return False

    def close(self) -> None:
        """Leave the group, so that others take over at once."""
        try:
            if self._untold:
                self._consumer.commit(self._untold, timeout_ms=_LAST_COMMIT_TIMEOUT_MS)
        except KafkaError as error:
            _log_failed_commit(self._untold, error)
        self._leave()
        if self._dead_letters is not None:
            self._dead_letters.close()

    def assigned(self, partitions: Iterable[int]) -> None:
        """Called from the consumer's own thread, while `poll` or `hold` waits in it: so no request is made here."""
        self._unsettle(*partitions)

    def revoked(self, partitions: Iterable[int]) -> None:
        """As `assigned`. What was read and not yet returned is the next owner's, who reads it again."""
        for partition in partitions:
            self._partitions.pop(partition, None)
            self._untold.pop(self._topic_partition(partition), None)

    def _connected(self) -> KafkaConsumer:
        """A member of the group; its partitions come with the first polls."""
        consumer = _consumer(
            self._settings,
            group_id=self._settings.group,
            enable_auto_commit=False,
            # Never jump silently: a position outside the log is settled here, and what is lost is counted.
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_poll_interval_ms=round(self._max_poll_interval_s * 1000),
            session_timeout_ms=10_000,  # so long a killed worker's partitions wait for their next owner
            fetch_max_wait_ms=50,  # so long may a busy partition wait for quiet ones
            max_partition_fetch_bytes=512 * 1024,
            default_offset_commit_callback=_log_failed_commit,
        )
        consumer.subscribe([self._settings.topic], listener=_Rebalances(self))
        return consumer

    def _fetch(self, max_items: int, timeout_s: float, *, settle: bool = True) -> None:
        """One round with the brokers, for the partitions that are about to run out of records."""
        if self._failed:
            self._consumer, self._failed = self._connected(), False
        for partition, state in self._partitions.items():
            wanted = state.settled and len(state.waiting) < _AHEAD_BATCHES * max_items
            (self._consumer.resume if wanted else self._consumer.pause)(self._topic_partition(partition))
        try:
            fetched = self._consumer.poll(timeout_ms=round(timeout_s * 1000), max_records=_EVERYTHING)
            for place, records in fetched.items():
                state = self._partitions[place.partition]
                state.waiting.extend(records)
                state.position = records[-1].offset + 1
            for place in fetched:  # only now: it raises what befell any partition, and all records must be kept
                self._partitions[place.partition].position = self._consumer.position(place, timeout_ms=0)
            self._tell_kafka()
            if settle:
                self._settle()
        except (OffsetOutOfRangeError, LogTruncationError) as error:
            self._take_up_anew(error)
        except KafkaError as error:
            if not error.retriable:
                # After some of these the consumer would go round in circles: the next attempt is made with a new one.
                self._failed, self._telling = True, None
                self._leave()
                self._partitions.clear()
                self._untold.clear()
                raise source_error(self._settings, error) from error
            log.warning("%s: the brokers do not answer for now: %s", self.name, told(error))

    def _leave(self) -> None:
        try:
            self._consumer.close(autocommit=False, timeout_ms=REQUEST_TIMEOUT_MS)
        except KafkaError as error:
            log.warning("%s: could not leave the group in good order: %s", self.name, told(error))

    def _tell_kafka(self) -> None:
        """Commit offsets to Kafka, one request at a time: more would get in the way of the group's own."""
        if self._untold and (self._telling is None or self._telling.is_done):
            self._telling = self._consumer.commit_async(self._untold)
            self._untold = {}

    def _settle(self) -> None:
        """Give every newly assigned partition the position that the database holds, as far as the log reaches."""
        waiting = sorted(partition for partition, state in self._partitions.items() if not state.settled)
        if not waiting:
            return
        stored = self._read_positions(waiting)
        places = [self._topic_partition(partition) for partition in waiting]
        firsts = self._consumer.beginning_offsets(places, timeout_ms=REQUEST_TIMEOUT_MS)
        ends = self._consumer.end_offsets(places, timeout_ms=REQUEST_TIMEOUT_MS)
        for place in places:
            position = stored.get(place.partition)
            start = self._start(place.partition, position, firsts[place], ends[place])
            self._consumer.seek(place, start)
            self._partitions[place.partition] = _Partition(True, position, returned=start, position=start)
        log.info("%s: reading partitions %s", self.name, ", ".join(map(str, sorted(self._partitions))))

    def _start(self, partition: int, position: int | None, first: int, end: int) -> int:
        if position is None:
            return first
        if position > end:
            log.error(
                f"{self.name}: partition {partition} was read up to offset {position}, but its log ends at {end}: "
                f"the topic was made anew, or this database is another one's; reading from offset {first}"
            )
            return first
        if position < first:
            self.expired += first - position
            log.error(
                f"{self.name}: partition {partition}: {first - position} records from offset {position} on are gone, "
                f"retention deleted them before they were read; reading from offset {first}"
            )
        return max(position, first)

    def _take_up_anew(self, error: KafkaError) -> None:
        places = error.args[0]
        if isinstance(error, LogTruncationError):
            log.error("%s: the brokers lost records that were read already: %s", self.name, told(error))
            places = error.divergent_offsets
        self._unsettle(*(place.partition for place in places))

    def _unsettle(self, *partitions: int) -> None:
        """Forget what was read of partitions; they rest until `_settle` knows where to read on."""
        for partition in partitions:
            self._partitions[partition] = _Partition()
            place = self._topic_partition(partition)
            self._consumer.pause(place)
            self._consumer.seek(place, 0)  # any will do: without one the consumer would ask for Kafka's own

    def _batch(self, max_items: int) -> Batch:
        """Up to `max_items` of the records that wait, the partitions taking turns."""
        turns = deque(sorted(partition for partition, state in self._partitions.items() if state.waiting))
        turns.rotate(-self._turn)
        taken: list[ConsumerRecord] = []
        while turns and len(taken) < max_items:
            waiting = self._partitions[turns[0]].waiting
            taken.append(waiting.popleft())
            if waiting:
                turns.rotate(-1)
            else:
                turns.popleft()
        if not taken:
            return Batch()
        self._turn += len(taken)
        positions = []
        for partition, state in sorted(self._partitions.items()):
            if state.settled and state.next != state.returned:
                positions.append(PositionUpdate(partition, state.expected, state.next))
                state.returned = state.expected = state.next
                state.in_hand += 1
        # A deleted record (a tombstone) has no value: parsing the empty one rejects it.
        records = (RawRecord(one.partition, one.offset, one.value or b"", key=one.key) for one in taken)
        return Batch(tuple(records), tuple(positions))

    def _buffered(self) -> int:
        return sum(len(state.waiting) for state in self._partitions.values())

    def _topic_partition(self, partition: int) -> TopicPartition:
        return TopicPartition(self._settings.topic, partition)


@dataclass(slots=True)
class _Partition:
    """Where an assigned partition stands; until it is settled, its position is not known."""

    settled: bool = False
    expected: int | None = None  # what the database holds once every batch that was returned is stored
    returned: int = 0  # the first offset that was not part of a batch yet
    in_hand: int = 0  # batches with some of it that were returned, and not committed yet
    position: int = 0  # the first offset that was not fetched yet, past what compaction and transactions left out
    waiting: deque[ConsumerRecord] = field(default_factory=deque)  # what was fetched and not returned yet

    @property
    def next(self) -> int:
        """The first offset that was not returned yet."""
        return int(self.waiting[0].offset if self.waiting else self.position)


class _Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, source: KafkaSource) -> None:
        self._source = source

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._source.assigned(place.partition for place in assigned)

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        self._source.revoked(place.partition for place in revoked)


def check(settings: KafkaSettings) -> str:
    """Reach the brokers and find the topic; says in one line what was found.

    Raises:
        SourceError: no broker answers, the topic does not exist, or access is refused.
    """
    consumer = _consumer(settings)
    try:
        partitions = len(consumer.partitions_for_topic(settings.topic))
        rejected = "" if settings.dead_letter_topic in consumer.topics() else " (to be created with the first one)"
    except KafkaError as error:
        raise source_error(settings, error) from error
    finally:
        consumer.close(autocommit=False, timeout_ms=REQUEST_TIMEOUT_MS)
    return (
        f"Kafka at {settings.bootstrap_servers}: topic {settings.topic} has {partitions} partitions; "
        f"rejected records go to {settings.dead_letter_topic}{rejected}"
    )


def _consumer(settings: KafkaSettings, **options: Any) -> KafkaConsumer:
    """A consumer that has found the topic."""
    # The brokers would make a topic with their defaults just because its name was asked for, misspelt or not.
    consumer = connected(KafkaConsumer, settings, allow_auto_create_topics=False, **options)
    try:
        if consumer.partitions_for_topic(settings.topic):
            return consumer
        wrong = SourceError(
            f"Kafka at {settings.bootstrap_servers} has no topic {settings.topic!r}, or this user may not see it; "
            "create it, or name another one in kafka.topic (for labels: labels.topic)"
        )
    except KafkaError as error:
        wrong = source_error(settings, error)
    consumer.close(autocommit=False, timeout_ms=REQUEST_TIMEOUT_MS)
    raise wrong


def _log_failed_commit(_offsets: object, response: object) -> None:
    if isinstance(response, Exception):
        log.info("Kafka's own offsets, which only lag tools read, were not updated: %s", told(response))

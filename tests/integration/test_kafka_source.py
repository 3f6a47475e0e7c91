"""KafkaSource against a real broker. A dict stands for the database's positions, fenced as the store fences them."""

import gc
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.admin import ACL, ACLOperation, ACLPermissionType, KafkaAdminClient, ResourcePattern, ResourceType
from kafka.errors import LogTruncationError
from pydantic import SecretStr

from monitor.config import KafkaSettings
from monitor.records import Batch, PositionUpdate, RawRecord, RecordError
from monitor.sources import SourceError
from monitor.sources.kafka import DEAD_LETTER_MAX_BYTES, KafkaSource, check
from monitor.sources.publisher import Publisher
from tests.integration.servers import Kafka, free_port

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]

DEADLINE_S = 60


class Positions:
    """The database's table of positions, and every offset that was stored, in order."""

    def __init__(self, positions: Mapping[int, int] | None = None) -> None:
        self.held = dict(positions or {})
        self.stored: list[tuple[int, int]] = []
        self.reads = 0

    def read(self, partitions: Sequence[int]) -> Mapping[int, int]:
        self.reads += 1
        return {partition: self.held[partition] for partition in partitions if partition in self.held}

    def store(self, batch: Batch) -> bool:
        """Whether the batch was taken: a position that is not the expected one refuses it whole."""
        if any(self.held.get(update.partition) != update.expected for update in batch.positions):
            return False
        self.held.update({update.partition: update.next for update in batch.positions})
        self.stored += [(record.partition, record.offset) for record in batch.records]
        return True


@pytest.fixture
def settings(kafka: Kafka) -> Callable[..., KafkaSettings]:
    """Settings for a new topic with a number of partitions, in a group of its own."""

    def make(partitions: int = 1, topic: str | None = None) -> KafkaSettings:
        topic = topic or kafka.make_topic(partitions)
        return KafkaSettings(
            bootstrap_servers=kafka.bootstrap, topic=topic, group=f"of-{topic}", dead_letter_topic=f"{topic}.rejected"
        )

    return make


@pytest.fixture
def produce(kafka: Kafka) -> Iterator[Callable[..., None]]:
    with closing(KafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=5)) as producer:

        def send(topic: str, *values: bytes | None, partition: int = 0, key: bytes | None = None) -> None:
            sent = [producer.send(topic, value, key=key, partition=partition) for value in values]
            for future in sent:
                future.get(30)

        yield send


@pytest.fixture(scope="module", autouse=True)
def leaky_sockets() -> Iterator[None]:
    """kafka-python leaves the sockets of failed connections to the garbage collector, which must come by here."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def records(first: int, end: int) -> list[bytes]:
    return [b"record %d" % number for number in range(first, end)]


def next_batch(source: KafkaSource, max_items: int = 64) -> Batch:
    """The next batch with records in it."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if (batch := source.poll(max_items, linger_s=0.05, wait_s=1.0)).records:
            return batch
    raise AssertionError(f"no record after {DEADLINE_S} s")


def store_until(count: int, positions: Positions, *sources: KafkaSource, max_items: int = 64) -> None:
    """Poll sources in turn, and store what they give, until `count` records are stored."""
    deadline = time.monotonic() + DEADLINE_S
    while len(positions.stored) < count:
        assert time.monotonic() < deadline, f"only {len(positions.stored)} of {count} records after {DEADLINE_S} s"
        for source in sources:
            batch = source.poll(max_items, linger_s=0.02, wait_s=0.2)
            if positions.store(batch):
                source.committed(batch)


def poll_until(true: Callable[[], bool], *sources: KafkaSource) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, f"not true after {DEADLINE_S} s"
        for source in sources:
            assert not source.poll(1, linger_s=0, wait_s=0.1).records


def dead_letters(settings: KafkaSettings, count: int) -> list[tuple[bytes | None, bytes, dict[str, str]]]:
    """Key, value and headers of the first records of the dead letter topic."""
    with closing(
        KafkaConsumer(
            settings.dead_letter_topic,
            bootstrap_servers=settings.bootstrap_servers,
            auto_offset_reset="earliest",
            consumer_timeout_ms=DEADLINE_S * 1000,
        )
    ) as consumer:
        return [
            (record.key, record.value, {name: value.decode() for name, value in record.headers})
            for _, record in zip(range(count), consumer, strict=False)
        ]


def test_topic_without_a_stored_position_is_read_from_its_start(settings, produce) -> None:
    news = settings()
    produce(news.topic, b"\xff not UTF-8", b"{}")
    with closing(KafkaSource(news, Positions().read)) as source:
        assert source.name == f"kafka:{news.topic}"
        batch = next_batch(source)
        assert batch.records == (RawRecord(0, 0, b"\xff not UTF-8"), RawRecord(0, 1, b"{}"))
        assert batch.positions == (PositionUpdate(0, expected=None, next=2),)
        assert not source.exhausted()


def test_reading_goes_on_at_the_database_position_whatever_kafka_has_committed(settings, produce) -> None:
    news = settings()
    produce(news.topic, *records(0, 10))
    place = TopicPartition(news.topic, 0)
    with closing(KafkaConsumer(bootstrap_servers=news.bootstrap_servers, group_id=news.group)) as other:
        other.assign([place])
        other.commit({place: OffsetAndMetadata(7, "", -1)})
    with closing(KafkaSource(news, Positions({0: 4}).read)) as source:
        batch = next_batch(source)
    assert [record.offset for record in batch.records] == [4, 5, 6, 7, 8, 9]
    assert batch.positions == (PositionUpdate(0, expected=4, next=10),)


def test_positions_chain_from_batch_to_batch_and_lag_tools_see_them(settings, produce) -> None:
    news = settings()
    produce(news.topic, *records(0, 5))
    positions = Positions()
    with closing(KafkaSource(news, positions.read)) as source:
        first = next_batch(source, max_items=2)
        assert positions.store(first)
        source.committed(first)
        second = next_batch(source, max_items=2)
        assert first.positions == (PositionUpdate(0, expected=None, next=2),)
        assert second.positions == (PositionUpdate(0, expected=2, next=4),)
        assert positions.reads == 1
    with closing(KafkaConsumer(bootstrap_servers=news.bootstrap_servers, group_id=news.group)) as other:
        assert other.committed(TopicPartition(news.topic, 0)) == 2


def test_batch_that_was_not_stored_is_read_again_from_where_the_database_stands(settings, produce) -> None:
    news = settings()
    produce(news.topic, *records(0, 6))
    positions = Positions()
    with closing(KafkaSource(news, positions.read)) as source:
        given_up = next_batch(source, max_items=4)
        positions.held[0] = 1  # Another worker was faster.
        assert not positions.store(given_up)
        again = next_batch(source, max_items=4)
    assert [record.offset for record in again.records] == [1, 2, 3, 4]
    assert again.positions == (PositionUpdate(0, expected=1, next=5),)


def test_batches_read_ahead_chain_and_are_stored_in_their_order(settings, produce) -> None:
    news = settings()
    produce(news.topic, *records(0, 6))
    positions = Positions()
    with closing(KafkaSource(news, positions.read)) as source:
        first = next_batch(source, max_items=2)
        second = source.ahead(2)
        assert first.positions == (PositionUpdate(0, expected=None, next=2),)
        assert second.positions == (PositionUpdate(0, expected=2, next=4),)
        assert source.lag() == {0: 2}
        assert positions.store(first)
        source.committed(first)
        third = source.ahead(2)
        assert third.positions == (PositionUpdate(0, expected=4, next=6),)
        for batch in (second, third):
            assert positions.store(batch)
            source.committed(batch)
        assert source.ahead(2) == Batch()
        produce(news.topic, b"record 6")
        last = next_batch(source)
        assert last.positions == (PositionUpdate(0, expected=6, next=7),)


@pytest.mark.parametrize("stored", [0, 1])
def test_a_poll_gives_up_every_batch_in_hand_and_reads_on_from_the_database(settings, produce, stored: int) -> None:
    news = settings()
    produce(news.topic, *records(0, 6))
    positions = Positions()
    with closing(KafkaSource(news, positions.read)) as source:
        for batch in (next_batch(source, max_items=2), source.ahead(2))[:stored]:
            assert positions.store(batch)
            source.committed(batch)
        again = next_batch(source)
        assert again.positions == (PositionUpdate(0, expected=positions.held.get(0), next=6),)
        assert positions.store(again)
    assert positions.stored == [(0, offset) for offset in range(6)]


def test_trouble_with_one_partition_costs_no_other_its_records(settings, produce, monkeypatch, caplog) -> None:
    # What the consumer's own thread found out is raised at whatever asks for a position next.
    news = settings(partitions=3)
    positions = Positions()
    with closing(KafkaSource(news, positions.read)) as source:
        poll_until(lambda: source.lag() == {0: 0, 1: 0, 2: 0}, source)
        where = source._consumer.position
        lost = [LogTruncationError({TopicPartition(news.topic, 2): None})]

        def position(place: TopicPartition, timeout_ms: int) -> int:
            if lost and source._buffered():
                raise lost.pop()
            return where(place, timeout_ms=timeout_ms)

        monkeypatch.setattr(source._consumer, "position", position)
        for partition in range(3):
            produce(news.topic, *records(0, 4), partition=partition)
        store_until(12, positions, source, max_items=3)
        assert not lost
    assert sorted(positions.stored) == [(partition, offset) for partition in range(3) for offset in range(4)]
    assert "the brokers lost records that were read already" in caplog.text


def test_nothing_is_read_ahead_while_a_partition_is_taken_over(settings, produce) -> None:
    news = settings(partitions=2)
    for partition in range(2):
        produce(news.topic, *records(0, 4), partition=partition)
    positions = Positions()
    with closing(KafkaSource(news, positions.read)) as source:
        poll_until(lambda: source.lag() == {0: 4, 1: 4}, source)
        first = next_batch(source, max_items=2)
        source.assigned([0])
        assert source.ahead(2) == Batch(), "what it would give, a poll must come before"
        assert positions.store(first)
        source.committed(first)
        store_until(8, positions, source)
    assert sorted(positions.stored) == [(partition, offset) for partition in range(2) for offset in range(4)]


def test_rebalance_while_reading_ahead_loses_and_repeats_nothing(settings, produce) -> None:
    news = settings(partitions=4)
    for partition in range(4):
        produce(news.topic, *records(0, 30), partition=partition)
    positions = Positions()
    with closing(KafkaSource(news, positions.read)) as first, closing(KafkaSource(news, positions.read)) as second:
        deadline = time.monotonic() + DEADLINE_S
        while len(positions.stored) < 120:
            assert time.monotonic() < deadline, f"only {len(positions.stored)} of 120 records"
            for source in (first, second):
                batch = source.poll(8, linger_s=0, wait_s=0.1)
                while batch.positions and positions.store(batch):
                    ahead = source.ahead(8)
                    source.committed(batch)
                    batch = ahead
    assert sorted(positions.stored) == [(partition, offset) for partition in range(4) for offset in range(30)]


def test_single_record_goes_out_alone_and_a_flood_in_full_batches(settings, produce) -> None:
    news = settings()
    positions = Positions()
    with closing(KafkaSource(news, positions.read)) as source:
        produce(news.topic, b"{}")
        store_until(1, positions, source)
        produce(news.topic, b"{}")
        started = time.monotonic()
        alone = source.poll(64, linger_s=0.05, wait_s=30)
        assert len(alone.records) == 1
        assert time.monotonic() - started < 5
        source.committed(alone)
        produce(news.topic, *records(0, 1000))
        sizes = []
        while sum(sizes) < 1000:
            batch = next_batch(source)
            source.committed(batch)
            sizes.append(len(batch.records))
    assert sizes == [64] * 15 + [40]


def test_every_batch_mixes_the_partitions_that_have_a_backlog(settings, produce) -> None:
    news = settings(partitions=3)
    for partition in range(3):
        produce(news.topic, *[b"x" * 400] * 2000, partition=partition)
    positions = Positions()
    with closing(KafkaSource(news, positions.read)) as source:
        source.committed(next_batch(source, max_items=1))
        shares = []
        for _ in range(90):
            batch = next_batch(source, max_items=60)
            source.committed(batch)
            shares.append(sorted({record.partition for record in batch.records}))
    assert shares.count([0, 1, 2]) >= 85


def test_rebalance_loses_and_repeats_nothing(settings, produce) -> None:
    news = settings(partitions=4)
    for partition in range(4):
        produce(news.topic, *records(0, 200), partition=partition)
    positions = Positions()
    with closing(KafkaSource(news, positions.read)) as first:
        # Small batches: far more has been fetched than was returned when the second worker takes its share.
        store_until(20, positions, first, max_items=5)
        with closing(KafkaSource(news, positions.read)) as second:
            deadline = time.monotonic() + DEADLINE_S
            while len(first.lag()) != 2 or len(second.lag()) != 2:
                assert time.monotonic() < deadline
                store_until(len(positions.stored) + 1, positions, first, second, max_items=1)
            store_until(500, positions, first, second, max_items=5)
            assert not first.lag().keys() & second.lag().keys()
        store_until(800, positions, first)
    assert sorted(positions.stored) == [(partition, offset) for partition in range(4) for offset in range(200)]


def test_hold_keeps_the_assignment_through_a_store_outage_longer_than_the_poll_interval(settings, produce) -> None:
    news = settings(partitions=2)
    produce(news.topic, *records(0, 3), partition=0)
    positions = Positions()
    with closing(KafkaSource(news, positions.read, max_poll_interval_s=2)) as source:
        in_hand = next_batch(source, max_items=2)
        produce(news.topic, *records(0, 3), partition=1)
        outage_ends_at = time.monotonic() + 5
        while time.monotonic() < outage_ends_at:
            source.hold()
        assert positions.store(in_hand)
        source.committed(in_hand)
        store_until(6, positions, source)
    assert positions.reads == 1
    assert sorted(positions.stored) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_partitions_assigned_during_a_hold_are_read_once_it_ends(settings, produce) -> None:
    news = settings()
    produce(news.topic, *records(0, 3))
    positions = Positions({0: 1})
    with closing(KafkaSource(news, positions.read)) as source:
        deadline = time.monotonic() + DEADLINE_S
        while not source.lag():
            assert time.monotonic() < deadline
            source.hold()
        assert positions.reads == 0
        assert [record.offset for record in next_batch(source).records] == [1, 2]


def test_database_that_is_away_at_assignment_is_asked_again(settings, produce) -> None:
    news = settings()
    produce(news.topic, *records(0, 3))
    positions = Positions({0: 2})
    answers: list[Exception | None] = [ConnectionError("database is away"), None]

    def read(partitions: Sequence[int]) -> Mapping[int, int]:
        if (error := answers.pop(0)) is not None:
            raise error
        return positions.read(partitions)

    with closing(KafkaSource(news, read)) as source:
        with pytest.raises(ConnectionError, match="database is away"):
            next_batch(source)
        source.hold()
        assert [record.offset for record in next_batch(source).records] == [2]


def test_lag_counts_what_was_not_returned_in_every_assigned_partition(settings, produce) -> None:
    news = settings(partitions=3)
    produce(news.topic, *records(0, 10), partition=0)
    produce(news.topic, *records(0, 4), partition=1)
    with closing(KafkaSource(news, Positions({1: 4}).read)) as source:
        assert source.lag() == {}
        next_batch(source, max_items=3)
        assert source.lag() == {0: 7, 1: 0, 2: 0}


def test_stored_position_beyond_the_log_starts_over_and_says_so(settings, produce, caplog) -> None:
    news = settings()
    produce(news.topic, *records(0, 3))
    positions = Positions({0: 1000})
    with closing(KafkaSource(news, positions.read)) as source:
        batch = next_batch(source)
        assert batch.positions == (PositionUpdate(0, expected=1000, next=3),)
        assert positions.store(batch)
    assert "was read up to offset 1000, but its log ends at 3: the topic was made anew" in caplog.text


def test_topic_made_anew_while_it_is_read_is_read_from_its_start(kafka, settings, produce, caplog) -> None:
    news = settings()
    produce(news.topic, *records(0, 50))
    positions = Positions()
    with closing(KafkaSource(news, positions.read)) as source:
        store_until(50, positions, source)
        with closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap)) as admin:
            admin.delete_topics([news.topic])
            deadline = time.monotonic() + DEADLINE_S
            while news.topic in admin.list_topics():
                assert time.monotonic() < deadline
        kafka.create_topic(news.topic)
        produce(news.topic, *records(0, 2))
        batch = next_batch(source)
    assert batch.positions == (PositionUpdate(0, expected=50, next=2),)
    assert "the topic was made anew" in caplog.text


def expire(settings: KafkaSettings, before: int) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)) as admin:
        admin.delete_records({TopicPartition(settings.topic, 0): before})


def test_records_that_retention_deleted_before_the_start_are_counted_and_skipped(settings, produce, caplog) -> None:
    news = settings()
    produce(news.topic, *records(0, 10))
    expire(news, before=7)
    with closing(KafkaSource(news, Positions({0: 2}).read)) as source:
        batch = next_batch(source)
        assert [record.offset for record in batch.records] == [7, 8, 9]
        assert batch.positions == (PositionUpdate(0, expected=2, next=10),)
        assert source.expired == 5
    assert "5 records from offset 2 on are gone" in caplog.text


def test_records_that_retention_deletes_while_reading_are_counted_and_skipped(settings, produce) -> None:
    news = settings()
    produce(news.topic, *records(0, 2))
    positions = Positions()
    with closing(KafkaSource(news, positions.read)) as source:
        store_until(2, positions, source)
        # Held, so that nothing is asked for any more, until what was asked for is answered.
        answered_at = time.monotonic() + 1
        while time.monotonic() < answered_at:
            source.hold()
        produce(news.topic, *records(2, 10))
        expire(news, before=6)
        store_until(6, positions, source)
        assert source.expired == 4
        assert positions.held == {0: 10}


def test_source_recovers_when_the_broker_comes_back(kafka, settings, produce) -> None:
    news = settings()
    produce(news.topic, *records(0, 3))
    positions = Positions()
    with closing(KafkaSource(news, positions.read)) as source:
        store_until(3, positions, source)
        kafka.stop()
        started = time.monotonic()
        for _ in range(5):
            assert source.poll(64, linger_s=0.05, wait_s=0.5) == Batch()
            source.hold()
        with pytest.raises(SourceError, match=rf"Kafka at {kafka.bootstrap}, topic '{news.topic}'"):
            source.lag()
        assert time.monotonic() - started < 30
        kafka.start()
        produce(news.topic, *records(3, 6))
        store_until(6, positions, source)
    assert positions.stored == [(0, offset) for offset in range(6)]


def test_aborted_transactions_are_skipped_and_leave_no_lag(kafka, settings) -> None:
    news = settings()
    with closing(KafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=news.topic)) as producer:
        producer.init_transactions()
        for value, commit in ((b"kept", True), (b"aborted", False), (b"kept too", True)):
            producer.begin_transaction()
            producer.send(news.topic, value).get(30)
            (producer.commit_transaction if commit else producer.abort_transaction)()
    positions = Positions()
    with closing(KafkaSource(news, positions.read)) as source:
        store_until(2, positions, source)
        assert positions.stored == [(0, 0), (0, 4)]
        poll_until(lambda: source.lag() == {0: 0}, source)
    assert positions.held == {0: 6}


def test_record_without_a_value_is_given_as_an_empty_one(settings, produce) -> None:
    news = settings()
    produce(news.topic, None, key=b"deleted")
    with closing(KafkaSource(news, Positions().read)) as source:
        assert next_batch(source).records == (RawRecord(0, 0, b"", key=b"deleted"),)


def test_dead_letter_keeps_key_bytes_reason_and_place(settings, produce) -> None:
    news = settings()
    produce(news.topic, b"fine", b"\x00\xff broken", key=b"wire-7")
    with closing(KafkaSource(news, Positions().read)) as source:
        record = next_batch(source).records[1]
        source.reject(record, RecordError("not_json", "record is not JSON: \u201cbroken\u201d"))
    assert dead_letters(news, 1) == [
        (
            b"wire-7",
            b"\x00\xff broken",
            {
                "reason": "not_json",
                "message": "record is not JSON: \u201cbroken\u201d",
                "topic": news.topic,
                "partition": "0",
                "offset": "1",
            },
        )
    ]


def test_dead_letter_larger_than_a_broker_takes_is_cut_and_says_so(settings) -> None:
    news = settings()
    with closing(KafkaSource(news, Positions().read)) as source:
        source.reject(RawRecord(0, 0, b"x" * 3_000_000), RecordError("too_large", "record is 3,000,000 bytes"))
    ((_, value, headers),) = dead_letters(news, 1)
    assert value == b"x" * DEAD_LETTER_MAX_BYTES
    assert headers["cut_from_bytes"] == "3000000"


def test_dead_letter_that_no_broker_takes_stops_the_batch(kafka, settings) -> None:
    news = settings()
    kafka.create_topic(news.dead_letter_topic, max_message_bytes="100")
    with (
        closing(KafkaSource(news, Positions().read)) as source,
        pytest.raises(SourceError, match=f"topic '{news.dead_letter_topic}'.*MessageSizeTooLarge"),
    ):
        source.reject(RawRecord(0, 0, b"x" * 1000), RecordError("not_json", "record is not JSON"))


def test_missing_topic_is_named_with_what_to_do(settings) -> None:
    news = settings(topic="no-such-topic")
    for start in (lambda: KafkaSource(news, Positions().read), lambda: check(news)):
        with pytest.raises(
            SourceError, match=r"has no topic 'no-such-topic'.*create it, or name another .* kafka\.topic"
        ):
            start()


def test_no_broker_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.sources.publisher.CONNECT_TIMEOUT_MS", 500)
    nobody = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}", topic="news")
    for start in (
        lambda: KafkaSource(nobody, Positions().read),
        lambda: Publisher(nobody, "news"),
        lambda: check(nobody),
    ):
        with pytest.raises(SourceError, match=r"Kafka at 127\.0\.0\.1:\d+.*check kafka\.bootstrap_servers"):
            start()


def test_login_that_is_refused_names_the_settings_and_never_the_password(kafka, settings, monkeypatch) -> None:
    monkeypatch.setattr("monitor.sources.publisher.CONNECT_TIMEOUT_MS", 3_000)
    user, password = kafka.SASL_USER
    login = {
        "bootstrap_servers": kafka.sasl_bootstrap,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_username": user,
    }
    news = settings()
    assert "has 1 partitions" in check(replace(news, **login, sasl_password=SecretStr(password)))
    with pytest.raises(SourceError, match=r"and kafka\.security_protocol with its login") as refused:
        check(replace(news, **login, sasl_password=SecretStr("battery staple")))
    assert "battery staple" not in str(refused.value)


def test_reading_goes_on_once_access_that_was_withdrawn_is_given_back(kafka, settings, produce) -> None:
    user, password = kafka.SASL_USER
    news = replace(
        settings(),
        bootstrap_servers=kafka.sasl_bootstrap,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username=user,
        sasl_password=SecretStr(password),
    )
    denied = ACL(
        principal=f"User:{user}",
        host="*",
        operation=ACLOperation.READ,
        permission_type=ACLPermissionType.DENY,
        resource_pattern=ResourcePattern(ResourceType.TOPIC, news.topic),
    )
    positions = Positions()
    with (
        closing(KafkaSource(news, positions.read)) as source,
        closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap)) as admin,
    ):
        produce(news.topic, b"before")
        store_until(1, positions, source)
        admin.create_acls([denied])
        with pytest.raises(SourceError, match=rf"topic '{news.topic}'.*Authorization.*give this user the right"):
            produce(news.topic, b"meanwhile")
            store_until(3, positions, source)
        assert source.lag() == {}
        admin.delete_acls([denied])
        deadline = time.monotonic() + DEADLINE_S
        while positions.held[0] < 2:
            assert time.monotonic() < deadline
            with suppress(SourceError):
                store_until(2, positions, source)
    assert positions.stored == [(0, 0), (0, 1)]


def test_certificate_that_is_not_there_is_named(settings, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"kafka\.ssl_cafile: there is no file .*/ca\.pem; name a PEM file"):
        check(replace(settings(), security_protocol="SSL", ssl_cafile=tmp_path / "ca.pem"))


@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
def test_compressed_records_are_read(settings, codec: str) -> None:
    news = settings()
    with closing(KafkaProducer(bootstrap_servers=news.bootstrap_servers, compression_type=codec)) as producer:
        producer.send(news.topic, b"{}" * 1000).get(30)
    with closing(KafkaSource(news, Positions().read)) as source:
        assert next_batch(source).records == (RawRecord(0, 0, b"{}" * 1000),)


def test_check_says_what_it_found(settings) -> None:
    news = settings(partitions=3)
    assert check(news) == (
        f"Kafka at {news.bootstrap_servers}: topic {news.topic} has 3 partitions; "
        f"rejected records go to {news.dead_letter_topic} (to be created with the first one)"
    )


def test_published_records_arrive_in_order_once_the_publisher_is_left(settings) -> None:
    news = settings(partitions=3)
    with Publisher(news, news.topic) as publisher:
        for value in records(0, 500):
            publisher.send(value, key=b"one partition")
    positions = Positions()
    with closing(KafkaSource(news, positions.read)) as source:
        store_until(500, positions, source)
    assert [offset for _, offset in positions.stored] == list(range(500))
    assert len({partition for partition, _ in positions.stored}) == 1

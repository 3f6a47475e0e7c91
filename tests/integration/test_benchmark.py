"""The benchmark's stream: a real broker, the daemon as its own process, and its database."""

import pytest

from pipelines.headlines import headlines
from pipelines.services import UnavailableError
from pipelines.stream import Stream

pytestmark = pytest.mark.integration


def test_every_item_of_a_topic_and_of_a_trickle_is_measured_once() -> None:
    _, titles = headlines(140)
    try:
        stream = Stream("[source]\nbatch_items = 16\n")
    except UnavailableError as error:
        pytest.skip(f"Kafka NOT TESTED: {error}; `make services` installs it")
    with stream:
        topic = stream.fill(titles[:120])
        assert stream.drain(topic, 120) > 0
        latency = stream.trickle(titles[120:], items_a_second=20)
        assert latency.items == 19
        assert 0 < latency.p50_s <= latency.p99_s <= latency.max_s
        assert stream.peak_bytes > 50 << 20

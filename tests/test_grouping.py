"""One cause, one alert: who leads, who follows, and when a group changes."""

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest

from monitor.alerting import AlertBook, as_json, sentence
from monitor.config import AlertSettings
from monitor.records import BUCKET, EVERYTHING, Alert, Kind, Reading, Remainder, Series, Severity

NOON = datetime(2023, 3, 10, 12, tzinfo=UTC)
BANK = Series("entity", "Harrowgate")
RIVAL = Series("entity", "Calder")
BANKS = Series("topic", "Financials")
OIL = Series("topic", "Energy")
EXPLAINED = Remainder(spike=False, p_value=0.3, accounts_for=0.9)
NOT_EXPLAINED = Remainder(spike=True, p_value=1e-6, accounts_for=0.2)


@dataclass
class Desk:
    """Steps an alert book through a spike, written as p-values by series, and keeps what each series said last.

    `left` holds what would be left of a series without another one; where nothing is said, all of it is.
    """

    book: AlertBook = field(default_factory=AlertBook)
    left: dict[tuple[Series, Series], Remainder] = field(default_factory=dict)
    steps: int = 0
    said: dict[Series, Alert] = field(default_factory=dict)

    def step(
        self,
        severities: Mapping[Series, Severity | None],
        p_value: float = 1e-5,
        kinds: Mapping[Series, Kind] | None = None,
    ) -> list[Alert]:
        """One bucket on; `severities` are those of the series in a spike, None where it would not open by itself."""
        readings = [
            Reading(
                series,
                60,
                42,
                60,
                15.6,
                (9.1, 23.8),
                p_value,
                True,
                severity,
                (kinds or {}).get(series, "negative_share"),
            )
            for series, severity in severities.items()
        ]
        changed = self.book.step(
            NOON + self.steps * BUCKET, readings, lambda alert, start: alert, without=self._without
        )
        self.steps += 1
        self.said |= {alert.series: alert for alert in changed}
        self._assert_each_group_has_one_leader_that_is_open()
        return changed

    def _without(self, alert: Alert, others: Collection[Series]) -> dict[Series, Remainder]:
        return {other: self.left.get((alert.series, other), NOT_EXPLAINED) for other in others}

    def _assert_each_group_has_one_leader_that_is_open(self) -> None:
        leading = [alert.group for alert in self.book.open if alert.role == "leads"]
        assert len(leading) == len(set(leading))
        assert {alert.group for alert in self.book.open} == set(leading)

    def leads(self, leader: Series, *followers: Series) -> bool:
        """Whether exactly these follow."""
        led = self.said[leader]
        found = {alert.series for alert in self.book.open if alert.follows == led.id}
        return led.role == "leads" and led.group == led.id and found == set(followers)


def _bank_run() -> Desk:
    """The bank explains its topic and everything, the topic explains everything."""
    return Desk(left={(BANKS, BANK): EXPLAINED, (EVERYTHING, BANK): EXPLAINED, (EVERYTHING, BANKS): EXPLAINED})


def test_of_alerts_that_open_together_the_most_specific_leads_and_names_the_others() -> None:
    desk = _bank_run()
    changed = desk.step({EVERYTHING: "warning", BANKS: "warning", BANK: "warning"})
    assert desk.leads(BANK, BANKS, EVERYTHING)
    assert desk.said[BANK].also == (BANKS, EVERYTHING)
    assert {alert.revision for alert in changed} == {1}
    for series in (BANKS, EVERYTHING):
        assert (desk.said[series].part_of, desk.said[series].explained_by) == (BANK, BANK)


def test_without_a_watched_entity_the_topic_leads_everything() -> None:
    desk = _bank_run()
    desk.step({EVERYTHING: "warning", BANKS: "warning"})
    assert desk.leads(BANKS, EVERYTHING)


def test_a_follower_that_comes_later_makes_its_leader_be_told_anew() -> None:
    desk = _bank_run()
    desk.step({BANK: "warning"})
    assert desk.said[BANK].revision == 1
    changed = desk.step({BANK: "warning", BANKS: "warning"})
    assert [(alert.series, alert.revision) for alert in changed] == [(BANK, 2), (BANKS, 1)]
    assert desk.said[BANK].also == (BANKS,)
    assert desk.said[BANK].updated_at == NOON + BUCKET
    assert desk.step({BANK: "warning", BANKS: "warning"}) == []


def test_a_topic_that_opened_first_leads_the_entity_that_explains_it_and_names_it() -> None:
    desk = _bank_run()
    desk.step({BANKS: "warning", EVERYTHING: "warning"})
    desk.step({BANKS: "warning", EVERYTHING: "warning", BANK: "warning"})
    assert desk.leads(BANKS, EVERYTHING, BANK)
    topic, bank = desk.said[BANKS], desk.said[BANK]
    assert (topic.explained_by, topic.also, topic.revision) == (BANK, (EVERYTHING, BANK), 2)
    assert (bank.part_of, bank.explained_by) == (BANKS, None)


def test_series_that_rise_independently_each_lead_their_own_group() -> None:
    desk = Desk()
    desk.step({BANKS: "warning", BANK: "warning", EVERYTHING: "warning"})
    for series in (BANKS, BANK, EVERYTHING):
        assert desk.leads(series)
        assert (desk.said[series].also, desk.said[series].explained_by) == ((), None)


def test_a_part_that_carries_less_than_half_of_a_spike_explains_it_not_though_it_tips_the_scales() -> None:
    desk = Desk(left={(BANKS, BANK): Remainder(spike=False, p_value=0.002, accounts_for=0.3)})
    desk.step({BANKS: "warning", BANK: "warning"})
    assert desk.leads(BANKS)


def test_of_several_entities_the_one_that_accounts_for_most_leads() -> None:
    desk = Desk(left={(BANKS, BANK): replace(EXPLAINED, accounts_for=0.7), (BANKS, RIVAL): EXPLAINED})
    desk.step({BANKS: "warning", BANK: "warning", RIVAL: "warning"})
    assert desk.leads(RIVAL, BANKS)
    assert desk.leads(BANK)


def test_of_an_entity_and_a_topic_that_it_does_not_explain_the_one_that_accounts_for_most_leads_everything() -> None:
    desk = Desk(left={(EVERYTHING, BANK): replace(EXPLAINED, accounts_for=0.6), (EVERYTHING, BANKS): EXPLAINED})
    desk.step({BANKS: "warning", BANK: "warning", EVERYTHING: "warning"})
    assert desk.leads(BANKS, EVERYTHING)
    assert desk.leads(BANK)


def test_of_a_topic_and_the_entity_that_explains_it_the_entity_explains_everything() -> None:
    desk = _bank_run()
    desk.left[EVERYTHING, BANK] = replace(EXPLAINED, accounts_for=0.6)
    desk.step({BANKS: "warning", BANK: "warning", EVERYTHING: "warning"})
    assert desk.said[EVERYTHING].explained_by == BANK


def test_an_entity_that_explains_two_open_topics_follows_the_one_of_which_it_carries_most_and_both_name_it() -> None:
    desk = Desk(left={(BANKS, BANK): EXPLAINED, (OIL, BANK): replace(EXPLAINED, accounts_for=0.6)})
    desk.step({OIL: "warning", BANKS: "warning"})
    desk.step({OIL: "warning", BANKS: "warning", BANK: "warning"})
    assert desk.leads(BANKS, BANK)
    assert desk.leads(OIL)
    assert (desk.said[BANKS].explained_by, desk.said[OIL].explained_by) == (BANK, BANK)


def test_entities_never_follow_each_other_nor_do_topics() -> None:
    desk = Desk(left=dict.fromkeys(((BANK, RIVAL), (RIVAL, BANK), (BANKS, OIL), (OIL, BANKS)), EXPLAINED))
    desk.step({BANK: "warning", BANKS: "warning"})
    desk.step({BANK: "warning", BANKS: "warning", RIVAL: "warning", OIL: "warning"})
    for series in (BANK, RIVAL, BANKS, OIL):
        assert desk.leads(series)


def test_an_entity_does_not_join_the_group_of_another_one_through_a_topic_that_both_explain() -> None:
    desk = Desk(left={(BANKS, BANK): EXPLAINED, (BANKS, RIVAL): EXPLAINED})
    desk.step({BANK: "warning", BANKS: "warning"})
    desk.step({BANK: "warning", BANKS: "warning", RIVAL: "warning"})
    assert desk.leads(BANK, BANKS)
    assert desk.leads(RIVAL)


def test_a_topic_that_leads_goes_on_naming_the_entity_that_explained_it_first() -> None:
    desk = Desk(left={(BANKS, BANK): EXPLAINED, (BANKS, RIVAL): EXPLAINED})
    desk.step({BANKS: "warning"})
    desk.step({BANKS: "warning", RIVAL: "warning"})
    desk.step({BANKS: "warning", RIVAL: "warning", BANK: "warning"})
    assert desk.leads(BANKS, RIVAL, BANK)
    assert (desk.said[BANKS].explained_by, desk.said[BANKS].also) == (RIVAL, (RIVAL, BANK))


def test_a_follower_that_comes_again_is_named_once() -> None:
    desk = _bank_run()
    desk.step({BANK: "warning", BANKS: "warning"})
    desk.step({BANK: "warning"})
    [again] = desk.step({BANK: "warning", BANKS: "warning"})
    assert (again.series, again.revision, again.part_of) == (BANKS, 1, BANK)
    assert desk.said[BANK].also == (BANKS,)


def test_alerts_of_different_kinds_are_no_group() -> None:
    desk = _bank_run()
    desk.step({BANK: "warning", BANKS: "warning"}, kinds={BANK: "volume_burst"})
    assert desk.leads(BANK)
    assert desk.leads(BANKS)


def test_nothing_is_grouped_where_that_is_switched_off() -> None:
    desk = _bank_run()
    desk.book = AlertBook(settings=AlertSettings(group=False))
    desk.step({BANK: "warning", BANKS: "warning"})
    assert desk.leads(BANK)
    assert desk.leads(BANKS)
    [over] = desk.step({BANKS: "warning"})
    assert (over.series, over.role) == (BANK, "leads")


def test_a_leader_is_critical_once_one_that_follows_it_is() -> None:
    desk = _bank_run()
    desk.step({BANK: "warning", BANKS: "warning"})
    desk.step({BANK: "warning", BANKS: "critical"}, p_value=1e-5)
    assert (desk.said[BANK].severity, desk.said[BANK].escalated_at) == ("critical", NOON + BUCKET)
    assert desk.said[BANK].revision == 2
    desk.step({BANK: "warning", BANKS: "warning", EVERYTHING: "critical"})
    assert desk.said[BANK].escalated_at == NOON + BUCKET


def test_a_leader_that_opens_with_a_critical_follower_opens_as_critical() -> None:
    desk = _bank_run()
    desk.step({BANK: "warning", BANKS: "critical"})
    assert (desk.said[BANK].severity, desk.said[BANK].escalated_at) == ("critical", None)


#   bank        |=========|- - - -     leads; held open
#   Financials     |=============|     follows
#                                ^ both are over


@pytest.mark.parametrize("severity", ["warning", None], ids=["a spike by the bank's news", "a spike's tail"])
def test_a_calm_leader_stays_open_while_what_follows_it_goes_on(severity: Severity | None) -> None:
    desk = _bank_run()
    desk.step({BANK: "warning", BANKS: "warning"})
    assert desk.step({BANKS: severity}) == []
    assert {alert.series for alert in desk.book.open} == {BANK, BANKS}
    over = desk.step({})
    assert {(alert.series, alert.resolved_at) for alert in over} == {(s, NOON + 2 * BUCKET) for s in (BANK, BANKS)}
    assert desk.book.open == ()


def test_a_leader_that_was_calm_and_spikes_again_goes_on_as_the_same_alert() -> None:
    desk = _bank_run()
    desk.step({BANK: "warning", BANKS: "warning"})
    desk.step({BANKS: "warning"})
    desk.step({BANK: "warning", BANKS: None}, p_value=1e-7)
    assert (desk.said[BANK].opened_at, desk.said[BANK].revision, desk.said[BANK].p_value) == (NOON, 2, 1e-7)
    assert desk.leads(BANK, BANKS)


def test_a_follower_that_is_over_leaves_its_leader_open_and_named() -> None:
    desk = _bank_run()
    desk.step({BANK: "warning", BANKS: "warning"})
    [over] = desk.step({BANK: "warning"})
    assert (over.series, over.part_of) == (BANKS, BANK)
    assert [alert.also for alert in desk.book.open] == [(BANKS,)]


def test_a_follower_that_is_a_spike_without_its_calm_leader_leads_from_then_on() -> None:
    desk = _bank_run()
    desk.step({BANK: "warning", BANKS: "warning", EVERYTHING: "warning"})
    group = desk.said[BANK].id
    desk.left[BANKS, BANK] = desk.left[EVERYTHING, BANK] = NOT_EXPLAINED
    desk.step({BANKS: "warning", EVERYTHING: "warning"})
    assert desk.said[BANK].resolved_at == NOON + BUCKET
    assert desk.leads(BANKS, EVERYTHING)
    topic = desk.said[BANKS]
    assert (topic.left_group, topic.left_at, topic.apart_from) == (group, NOON + BUCKET, BANK)
    assert (topic.part_of, topic.explained_by, topic.revision) == (None, None, 2)
    assert desk.said[EVERYTHING].part_of == BANKS


def test_a_follower_of_a_calm_leader_that_another_follower_explains_stays_with_them() -> None:
    desk = _bank_run()
    desk.step({BANK: "warning", BANKS: "warning", EVERYTHING: "warning"})
    desk.left[EVERYTHING, BANK] = NOT_EXPLAINED
    assert desk.step({BANKS: "warning", EVERYTHING: "warning"}) == []
    assert desk.leads(BANK, BANKS, EVERYTHING)


def test_a_follower_of_a_calm_leader_that_another_groups_alert_explains_follows_that_one() -> None:
    desk = _bank_run()
    desk.step({BANK: "warning", BANKS: "warning", RIVAL: "warning"})
    desk.left[BANKS, BANK], desk.left[BANKS, RIVAL] = NOT_EXPLAINED, EXPLAINED
    desk.step({BANKS: "warning", RIVAL: None})
    assert desk.said[BANK].resolved_at is not None
    assert desk.leads(RIVAL, BANKS)
    moved = desk.said[BANKS]
    assert (moved.left_group, moved.explained_by, moved.apart_from) == (desk.said[BANK].id, RIVAL, BANK)


def test_a_follower_that_another_groups_alert_came_to_explain_leaves_its_calm_leader_for_that_one() -> None:
    #  Harrowgate  =======......          is over, and a spike of it hours later opens anew
    #  Everything  ==================     told anew when Calder explains it
    #  Calder           =============
    desk = Desk(left={(EVERYTHING, BANK): EXPLAINED})
    desk.step({BANK: "warning", EVERYTHING: "warning"})
    assert desk.leads(BANK, EVERYTHING)
    desk.left = {(EVERYTHING, RIVAL): EXPLAINED}
    for _ in range(13):
        desk.step({BANK: "warning", EVERYTHING: "warning", RIVAL: "warning"})
    desk.step({BANK: "warning", EVERYTHING: "warning", RIVAL: "warning"}, p_value=1e-9)
    assert (desk.said[EVERYTHING].part_of, desk.said[EVERYTHING].explained_by) == (BANK, RIVAL)
    desk.step({EVERYTHING: "warning", RIVAL: "warning"}, p_value=1e-9)
    assert desk.said[BANK].resolved_at is not None
    assert desk.leads(RIVAL, EVERYTHING)
    assert [alert.series for alert in desk.step({BANK: "warning", EVERYTHING: "warning", RIVAL: "warning"})] == [BANK]


def test_followers_lead_by_themselves_from_when_grouping_is_switched_off() -> None:
    desk = _bank_run()
    desk.step({BANKS: "warning", BANK: "warning"})
    desk.book = AlertBook(desk.book.open, AlertSettings(group=False))
    [alone] = desk.step({BANKS: "warning", BANK: "warning"})
    assert (alone.series, alone.role, alone.left_group) == (BANKS, "leads", desk.said[BANK].id)


def test_one_question_tells_what_is_left_of_an_alert_without_each_of_many_others() -> None:
    asked: list[Series] = []

    class Counting(Desk):
        def _without(self, alert: Alert, others: Collection[Series]) -> dict[Series, Remainder]:
            asked.append(alert.series)
            return super()._without(alert, others)

    entities = [Series("entity", f"Bank {number}") for number in range(50)]
    desk = Counting(left={(BANKS, entities[7]): EXPLAINED})
    desk.step({BANKS: "warning"})
    desk.step(dict.fromkeys((BANKS, *entities), "warning"))
    assert desk.said[BANKS].explained_by == entities[7]
    assert asked == [BANKS]


def test_a_follower_that_worsens_beyond_what_explained_it_leaves_its_group() -> None:
    desk = _bank_run()
    desk.step({BANK: "warning", BANKS: "warning"})
    desk.left[BANKS, BANK] = NOT_EXPLAINED
    assert desk.step({BANK: "warning", BANKS: "warning"}) == []  # it is asked again only when it is told anew
    [told] = desk.step({BANK: None, BANKS: "critical"})
    assert (told.series, told.role, told.apart_from) == (BANKS, "leads", BANK)
    assert desk.leads(BANK)


def test_a_follower_of_which_its_leader_carries_less_but_without_which_it_is_no_spike_stays() -> None:
    desk = _bank_run()
    desk.step({BANK: "warning", BANKS: "warning"})
    desk.left[BANKS, BANK] = Remainder(spike=False, p_value=0.01, accounts_for=0.4)
    desk.step({BANK: "warning", BANKS: "critical"})
    assert desk.leads(BANK, BANKS)


def test_an_alert_that_opens_again_is_in_a_group_anew() -> None:
    desk = _bank_run()
    desk.step({BANK: "warning", BANKS: "warning"})
    before = desk.said[BANKS]
    desk.step({})
    desk.step({BANKS: "warning"})
    assert desk.leads(BANKS)
    assert (desk.said[BANKS].part_of, desk.said[BANKS].follows) == (None, None)
    desk.step({BANKS: "warning", BANK: "warning"})
    assert desk.leads(BANKS, BANK)
    assert desk.said[BANKS].group != before.group


def test_a_leader_that_opens_again_follows_the_former_follower_that_leads_now() -> None:
    desk = _bank_run()
    desk.step({BANK: "warning", BANKS: "warning"})
    desk.left[BANKS, BANK] = NOT_EXPLAINED
    desk.step({BANKS: "warning"})
    assert desk.leads(BANKS)
    desk.left[BANKS, BANK] = EXPLAINED
    desk.step({BANKS: "warning", BANK: "warning"})
    assert desk.leads(BANKS, BANK)


def test_an_entity_goes_on_by_itself_when_the_topic_that_it_explained_is_calm() -> None:
    desk = _bank_run()
    desk.step({BANKS: "warning"})
    desk.step({BANKS: "warning", BANK: "warning"})
    desk.step({BANK: None})
    assert desk.leads(BANKS, BANK)
    desk.step({BANK: "warning"})
    assert desk.said[BANKS].resolved_at is not None
    assert desk.leads(BANK)


def test_a_group_goes_on_after_a_restart() -> None:
    desk = _bank_run()
    desk.step({BANK: "warning", BANKS: "warning"})
    desk.book = AlertBook(desk.book.open)
    assert desk.step({BANKS: "warning"}) == []
    desk.step({BANKS: "warning", EVERYTHING: "warning"})
    assert desk.leads(BANK, BANKS, EVERYTHING)
    assert {alert.series for alert in desk.step({})} == {BANK, BANKS, EVERYTHING}


def test_a_follower_whose_leader_ended_while_grouping_was_off_leads() -> None:
    desk = _bank_run()
    desk.step({BANK: "warning", BANKS: "warning"})
    desk.book = AlertBook([alert for alert in desk.book.open if alert.series == BANKS])
    [told] = desk.step({BANKS: "warning"})
    assert (told.role, told.revision, told.left_group) == ("leads", 2, desk.said[BANK].id)
    assert (told.explained_by, told.apart_from) == (None, None)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_comes_each_group_has_one_open_leader_as_severe_as_what_follows_it(seed: int) -> None:
    rng = random.Random(seed)
    series = [EVERYTHING, BANKS, OIL, BANK, RIVAL]
    desk = Desk()
    together = 0
    for _ in range(400):
        for pair in [(one, other) for one in series for other in series if one != other]:
            if rng.random() < 0.1:
                desk.left[pair] = rng.choice([EXPLAINED, NOT_EXPLAINED, Remainder(False, 0.01, 0.3)])
        firing = [one for one in series if rng.random() < 0.7]
        # The desk checks after each step that each group has one leader, which is open.
        desk.step(
            {one: rng.choice(["warning", "critical", None]) for one in firing}, p_value=10 ** -rng.uniform(4, 9)
        )
        following = [alert for alert in desk.book.open if alert.role == "follows"]
        led = {alert.id: alert for alert in desk.book.open if alert.role == "leads"}
        assert all(led[alert.group].severity == "critical" for alert in following if alert.severity == "critical")
        together += len(following)
    assert together > 100


def test_people_read_of_the_group_in_the_sentence() -> None:
    desk = _bank_run()
    desk.step({EVERYTHING: "warning", BANKS: "warning", BANK: "warning"})
    assert sentence(desk.said[BANK]).endswith("(9 to 24). Also: Financials, Everything")
    assert sentence(desk.said[BANKS]).endswith(
        "(9 to 24). Part of the alert on Harrowgate, without which it would be no spike"
    )
    late = _bank_run()
    late.step({BANKS: "warning", EVERYTHING: "warning"})
    late.step({BANKS: "warning", EVERYTHING: "warning", BANK: "warning"})
    assert sentence(late.said[BANKS]).endswith("(9 to 24). Without Harrowgate it would be no spike. Also: Everything")
    assert sentence(late.said[BANK]).endswith("(9 to 24). Part of the alert on Financials")
    late.left[EVERYTHING, BANKS] = late.left[EVERYTHING, BANK] = NOT_EXPLAINED
    late.step({BANKS: "warning", EVERYTHING: "critical", BANK: "warning"})
    assert sentence(late.said[EVERYTHING]).endswith("(9 to 24). A spike without Financials too")


def test_an_alert_as_json_says_its_group() -> None:
    desk = _bank_run()
    desk.step({BANKS: "warning", BANK: "warning"})
    leader, follower = as_json(desk.said[BANK]), as_json(desk.said[BANKS])
    bank = {"dimension": "entity", "name": "Harrowgate"}
    assert (leader["group"], leader["role"], leader["part_of"]) == (desk.said[BANK].id, "leads", None)
    assert leader["also"] == [{"dimension": "topic", "name": "Financials"}]
    assert (follower["group"], follower["role"]) == (leader["group"], "follows")
    assert follower["part_of"] == follower["explained_by"] == bank
    assert follower["apart_from"] is None

"""When a run stops by itself, and when it does not."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ncbatch.driver.health import Place
from ncbatch.driver.limits import EarlierFailures, Outcome, Policy
from ncbatch.driver.schedule import Call, CallKind, Schedule

HERE = Place("here")


def schedule(
    policy: Policy | None = None,
    before: EarlierFailures | None = None,
    /,
    workers: int = 1,
    **units: int,
) -> tuple[Schedule, list[Place]]:
    """Units with so many images each, on nodes of one worker each."""
    pending = Schedule(
        {unit: [f"{unit}{n}" for n in range(images)] for unit, images in units.items()},
        dict.fromkeys(units, 1.0),
        policy,
        before,
    )
    places = [Place(f"node-{n}", process=n) for n in range(workers)]
    pending.workers_at(places)
    return pending, places


def outcome(ok: int, failed: Mapping[str, int]) -> Outcome:
    system = {name: count for name, count in failed.items() if name in ("access_denied", "process_killed")}
    return Outcome(ok, {name: count for name, count in failed.items() if name not in system}, system)


def many(count: int, images: int = 1) -> dict[str, int]:
    return {f"u{n:05d}": images for n in range(count)}


def next_work(pending: Schedule, place: Place, now: float) -> Call:
    call = pending.next_call(now, place)
    while call is not None and call.kind is CallKind.TRIAL:
        pending.trial_passed(place)
        call = pending.next_call(now, place)
    assert call is not None
    return call


# Failed rows


def test_too_many_failed_rows_stop_a_small_run() -> None:
    pending, (place,) = schedule(a=199, b=1, c=1)
    pending.committed(next_work(pending, place, 0.0), place, outcome(0, {"unreadable": 199}))
    assert pending.stop_reason is None, "199 images say nothing yet"
    pending.committed(next_work(pending, place, 0.0), place, outcome(1, {}))
    assert pending.stop_reason is not None
    assert pending.stop_reason.startswith("199 of 200 images failed (unreadable: 199)")


@pytest.mark.parametrize("error_class", ["unreadable", "access_denied"])
def test_a_tolerable_share_of_failed_rows_does_not(error_class: str) -> None:
    pending, (place,) = schedule(a=200, b=1)
    pending.committed(next_work(pending, place, 0.0), place, outcome(190, {error_class: 10}))
    assert pending.stop_reason is None
    pending.committed(next_work(pending, place, 0.0), place, outcome(0, {error_class: 1}))
    assert pending.stop_reason is not None


def test_faults_of_images_and_of_the_system_are_judged_apart() -> None:
    pending, (place,) = schedule(a=200, b=1)
    pending.committed(
        next_work(pending, place, 0.0), place, outcome(184, {"unreadable": 8, "access_denied": 8})
    )
    assert pending.stop_reason is None


def test_images_that_are_too_large_come_first_and_stop_nothing() -> None:
    """200 of a million: each alone in its unit, and of all units the longest."""
    large = {f"large{n}": 1 for n in range(200)}
    units = large | many(10_000, images=100)
    pending = Schedule({unit: [unit] * n for unit, n in units.items()}, {u: float(u in large) for u in units})
    pending.workers_at([HERE])
    while not pending.finished:
        call = next_work(pending, HERE, 0.0)
        failed = {"too_large": 1} if call.unit in large else {}
        pending.committed(call, HERE, outcome(units[call.unit] - len(failed), failed))
        assert pending.stop_reason is None


def test_a_large_run_of_bad_images_stops_soon() -> None:
    pending, (place,) = schedule(**many(10_000, images=100))
    done = 0
    while pending.stop_reason is None:
        call = next_work(pending, place, 0.0)
        bad = 10 if int(call.unit[1:]) % 2 else 15
        pending.committed(call, place, outcome(100 - bad, {"truncated": bad}))
        done += 100
    assert done <= 1000 and "truncated" in pending.stop_reason


def test_system_faults_that_begin_later_stop_a_large_run() -> None:
    pending, (place,) = schedule(**many(1000, images=100))
    for _ in range(100):
        pending.committed(next_work(pending, place, 0.0), place, outcome(100, {}))
    for _ in range(6):
        assert pending.stop_reason is None
        pending.committed(next_work(pending, place, 0.0), place, outcome(0, {"access_denied": 100}))
    assert pending.stop_reason is not None


def test_what_failed_before_and_fails_again_stops_nothing() -> None:
    units, policy = {"a": 10, "b": 10}, Policy(failed_share=0.05, failed_after=10)
    pending, (place,) = schedule(policy, **units)
    again, _ = schedule(policy, EarlierFailures(failed=10), **units)
    pending.committed(next_work(pending, place, 0.0), place, outcome(0, {"missing": 10}))
    again.committed(next_work(again, place, 0.0), place, outcome(0, {"missing": 10}))
    assert pending.stop_reason is not None and again.stop_reason is None
    again.committed(next_work(again, place, 0.0), place, outcome(8, {"missing": 2}))
    assert again.stop_reason is not None, "what failed beyond that is news"


# Lost workers


def test_workers_that_only_die_stop_the_run() -> None:
    pending, (place,) = schedule(Policy(deaths=3), a=1, b=1, c=1)
    for _ in range(3):
        assert pending.stop_reason is None
        pending.struck(next_work(pending, place, 0.0), place, "process_killed", 0.0, "signal 11")
    assert pending.stop_reason is not None
    assert "signal 11" in pending.stop_reason


def test_nodes_that_die_before_the_first_commit_do_not() -> None:
    """Two nodes of eight GPUs, among many."""
    pending, places = schedule(workers=256, **many(1000))
    for place in places:
        call = next_work(pending, place, 0.0)
        if int(place.node.removeprefix("node-")) < 16:
            pending.interrupted(call, place)
    assert pending.stop_reason is None


def test_some_nodes_that_only_die_before_the_first_commit_do_not() -> None:
    pending, places = schedule(workers=256, **many(1000))
    for _ in range(100):
        for place in places[:16]:
            call = pending.next_call(0.0, place)
            if call is not None:
                pending.struck(call, place, "process_killed", 0.0)
    assert pending.stop_reason is None, "240 others are at work"


def test_all_that_die_stop_the_run_whatever_their_number() -> None:
    pending, places = schedule(workers=50, **many(1000))
    now, deaths = 0.0, 0
    while pending.stop_reason is None:
        for place in places:
            call = pending.next_call(now, place)
            if call is not None:
                pending.struck(call, place, "process_killed", now)
                deaths += 1
        now += 1.0
    assert 150 <= deaths <= 200


def test_deaths_while_others_work_do_not() -> None:
    pending, (first, second) = schedule(Policy(deaths=3), workers=2, **many(40, images=2))
    for turn in range(30):
        good = pending.next_call(float(turn), first)
        bad = pending.next_call(float(turn), second)
        if bad is not None:
            pending.struck(bad, second, "process_killed", float(turn))
        if good is not None and good.kind is CallKind.TRIAL:
            pending.trial_passed(first)
        elif good is not None:
            pending.committed(good, first, outcome(2, {}))
        assert pending.stop_reason is None


def test_a_unit_of_killers_does_not_stop_a_run_that_works() -> None:
    """Else the same command would meet the same killers first, again and again."""
    pending, (place,) = schedule(Policy(deaths=10), u=8)
    process = 0
    while not pending.finished:
        place = Place(place.node, process=process)
        call = next_work(pending, place, 0.0)
        killers = {f"u{n}" for n in range(1, 7)} - call.poisoned.keys()
        if ({call.image} if call.image else killers) & killers:
            pending.struck(call, place, "process_killed", 0.0)
            process += 1
        elif call.kind is CallKind.PROBE:
            pending.probed(call, place)
        else:
            assert len(call.poisoned) == 6
            pending.committed(call, place, outcome(2, {"process_killed": 6}))
        assert pending.stop_reason is None


def test_killers_that_are_tried_again_do_not_stop_a_run() -> None:
    """Ten images that killed their workers before, and all do so again: every one gets its row."""
    pending, (place,) = schedule(Policy(deaths=10), EarlierFailures(failed=10, killed=10), a=10)
    process = 0
    while not pending.finished:
        place = Place(place.node, process=process)
        call = next_work(pending, place, 0.0)
        if len(call.poisoned) == 10:
            pending.committed(call, place, outcome(0, {"process_killed": 10}))
        else:
            pending.struck(call, place, "process_killed", 0.0)
            process += 1
        assert pending.stop_reason is None


def test_a_device_that_breaks_for_good_stops_a_run_that_has_no_other() -> None:
    pending, (place,) = schedule(**many(20, images=5))
    for _ in range(5):
        pending.committed(next_work(pending, place, 0.0), place, outcome(5, {}))
    now = 0.0
    while pending.stop_reason is None:
        now += 5.0
        call = pending.next_call(now, place)
        if call is not None:
            assert not call.poisoned, "its images are not to blame"
            pending.struck(call, place, "device_failed", now, "CUDA error: uncorrectable ECC error")
        assert now < 1000
    assert "uncorrectable ECC error" in pending.stop_reason


# A store that refuses


def test_the_store_refusing_in_a_row_stops_the_run() -> None:
    pending, (place,) = schedule(Policy(refusals=3), a=1)
    for now in (0.0, 20.0, 40.0):
        assert pending.stop_reason is None
        pending.postponed(next_work(pending, place, now), place, now, now + 15, "wrong key")
    assert pending.stop_reason == "the store failed 3 times in a row: wrong key"


def test_a_full_disk_is_nobodys_fault_and_stops_the_run_in_its_own_words() -> None:
    """Whoever writes meets it, so no node is kept from work for it, and those that have not met it will."""
    pending, places = schedule(Policy(refusals=3), workers=4, **many(20))
    full = "the disk or quota of /out is full ('a'); free space and run the same command again"
    for now in (0.0, 20.0, 40.0):
        assert pending.stop_reason is None
        call = pending.next_call(now, places[0])
        assert call is not None and call.kind is CallKind.UNIT, "it needs no trial"
        pending.full(call, places[0], now + 15, full)
        assert pending.quarantines() == []
    assert pending.stop_reason == full


def test_a_node_without_credentials_stops_nothing() -> None:
    """However often it is refused: the others have not been."""
    pending, places = schedule(workers=256, **many(1000))
    for place in places[1:]:
        next_work(pending, place, 0.0)
    now, refused = 0.0, 0
    while now < 300.0:  # until the others are done with their first units
        call = pending.next_call(now, places[0])
        if call is not None:
            pending.postponed(call, places[0], now, now + 15, "denied access (RequestTimeTooSkewed)")
            refused += 1
        now += 0.1
    assert pending.stop_reason is None
    assert refused < 10, "it is quarantined"
    (quarantine,) = pending.quarantines()
    assert quarantine.place == places[0] and "RequestTimeTooSkewed" in quarantine.reason


def test_a_destination_that_nobody_can_write_to_stops_at_the_first_units() -> None:
    pending, places = schedule(workers=3, **many(20))
    calls = [(next_work(pending, place, 0.0), place) for place in places]
    for call, place in calls:
        assert pending.stop_reason is None
        pending.postponed(call, place, 0.0, 15.0, "denied access to 'a.png' in /out", final=True)
    assert pending.stop_reason == "denied access to 'a.png' in /out" and pending.quarantines() == []


def test_a_destination_that_others_can_write_to_is_for_one_place_to_miss() -> None:
    pending, (first, second) = schedule(workers=2, **many(20))
    call, good = next_work(pending, first, 0.0), next_work(pending, second, 0.0)
    pending.postponed(call, first, 0.0, 15.0, "denied", final=True)
    pending.committed(good, second, outcome(1, {}))
    pending.postponed(next_work(pending, second, 1.0), second, 1.0, 16.0, "503")
    assert pending.stop_reason is None


def test_one_outage_counts_once_whatever_the_number_of_workers() -> None:
    pending, places = schedule(Policy(refusals=2), workers=8, **many(16))
    for call, place in [(next_work(pending, place, 0.0), place) for place in places]:
        pending.postponed(call, place, 0.0, 15.0, "503")
    assert pending.stop_reason is None
    second = [(pending.next_call(15.0, place), place) for place in places]
    for trial, place in second:
        assert trial is not None and trial.kind is CallKind.TRIAL
        pending.postponed(trial, place, 15.0, 30.0, "503")
    assert pending.stop_reason is not None


def test_a_success_ends_the_row_of_refusals() -> None:
    pending, (first, second) = schedule(Policy(refusals=2), workers=2, **many(4))
    refused, good = next_work(pending, first, 0.0), next_work(pending, second, 0.0)
    pending.postponed(refused, first, 0.0, 1.0, "503")
    pending.committed(good, second, outcome(1, {}))
    pending.postponed(next_work(pending, first, 20.0), first, 20.0, 21.0, "503")
    assert pending.stop_reason is None

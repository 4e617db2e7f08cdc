"""Every decision of a run, one by one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ncbatch.driver.schedule import (
    DEVICE_FAILURES_ALLOWED,
    STRIKES_TO_ISOLATE,
    Call,
    CallKind,
    EarlierFailures,
    Policy,
    Schedule,
)


def schedule(
    policy: Policy | None = None, before: EarlierFailures | None = None, /, **units: str
) -> Schedule:
    """Units by name with one letter per image; all weigh as many as they have images."""
    return Schedule(
        {unit: list(images) for unit, images in units.items()},
        {unit: len(images) for unit, images in units.items()},
        policy,
        before,
    )


def called(pending: Schedule, now: float = 0.0) -> Call:
    call = pending.next_call(now)
    assert call is not None
    return call


def calls(pending: Schedule, now: float = 0.0) -> Iterator[Call]:
    while call := pending.next_call(now):
        yield call


def strike(pending: Schedule, unit: str, times: int = 1) -> None:
    for _ in range(times):
        call = called(pending)
        assert (call.unit, call.kind) == (unit, CallKind.UNIT)
        pending.struck(call, "process_killed")


def test_an_empty_run_is_finished() -> None:
    pending = schedule()
    assert pending.finished
    assert pending.next_call(0.0) is None


def test_longest_first_and_each_once() -> None:
    pending = Schedule({u: ["i"] for u in "abcd"}, {"a": 1.0, "b": 3.0, "c": 2.0, "d": 3.0})
    assert [call.unit for call in calls(pending)] == ["b", "d", "c", "a"]
    assert not pending.finished
    assert pending.open_units == 4


def test_a_commit_ends_a_unit() -> None:
    pending = schedule(u="ab")
    call = called(pending)
    assert (call.kind, call.image, call.poisoned) == (CallKind.UNIT, None, {})
    pending.committed(call, 2, 0)
    assert pending.finished
    assert pending.stop_reason is None


def test_a_second_commit_of_a_unit_counts_once() -> None:
    pending = schedule(Policy(failed_after=2, failed_share=0.4), u="a", w="b", x="c")
    first = called(pending)
    pending.committed(first, 1, 0)
    pending.committed(first, 0, 1)
    pending.committed(called(pending), 1, 0)
    assert pending.stop_reason is None


def test_the_first_strike_means_again() -> None:
    pending = schedule(u="ab")
    strike(pending, "u")
    call = called(pending)
    assert (call.unit, call.kind, call.poisoned) == ("u", CallKind.UNIT, {})


def test_a_struck_unit_keeps_its_place() -> None:
    pending = schedule(long="abc", short="a")
    strike(pending, "long")
    assert [call.unit for call in calls(pending)] == ["long", "short"]


def test_the_second_strike_isolates_and_only_the_killer_fails() -> None:
    pending = schedule(u="abc", later="x")
    strike(pending, "u", 2)
    probes = [called(pending) for _ in range(3)]
    assert [(call.kind, call.image) for call in probes] == [(CallKind.PROBE, image) for image in "abc"]
    assert called(pending).unit == "later", "a unit is not called while its images are probed"
    pending.probed(probes[0])
    pending.struck(probes[1], "deadline")
    assert pending.next_call(0.0) is None, "one probe is still out"
    pending.probed(probes[2])
    last = called(pending)
    assert (last.unit, last.kind, last.poisoned) == ("u", CallKind.UNIT, {"b": "deadline"})
    pending.committed(last, 2, 1)
    assert pending.open_units == 1


def test_struck_again_after_its_probes_it_is_given_up() -> None:
    pending = schedule(u="ab")
    strike(pending, "u", 2)
    for call in [called(pending), called(pending)]:
        pending.probed(call)
    strike(pending, "u", 2)
    last = called(pending)
    assert (last.kind, last.poisoned) == (CallKind.UNIT, {"a": "process_killed", "b": "process_killed"})


def test_giving_up_keeps_what_the_probes_found() -> None:
    pending = schedule(u="ab")
    strike(pending, "u", 2)
    pending.struck(called(pending), "deadline")
    pending.probed(called(pending))
    strike(pending, "u", 2)
    assert called(pending).poisoned == {"a": "deadline", "b": "process_killed"}


def test_a_preempted_node_is_no_strike() -> None:
    pending = schedule(u="ab")
    for _ in range(10):
        call = called(pending)
        assert (call.kind, call.poisoned) == (CallKind.UNIT, {})
        pending.interrupted(call)
    strike(pending, "u")
    assert called(pending).kind is CallKind.UNIT


def test_an_interrupted_probe_is_done_again() -> None:
    pending = schedule(u="a")
    strike(pending, "u", 2)
    probe = called(pending)
    pending.interrupted(probe)
    again = called(pending)
    assert (again.kind, again.image, again.poisoned) == (CallKind.PROBE, "a", {})
    pending.probed(again)
    assert called(pending).kind is CallKind.UNIT


def test_a_refused_call_waits() -> None:
    pending = schedule(u="ab", w="a")
    pending.postponed(called(pending, 10.0), 25.0, "down")
    assert called(pending, 24.9).unit == "w"
    assert pending.next_call(24.9) is None
    assert called(pending, 25.0).unit == "u"
    assert pending.stop_reason is None


def test_a_refused_probe_waits_too() -> None:
    pending = schedule(u="a")
    strike(pending, "u", 2)
    pending.postponed(called(pending, 10.0), 25.0, "down")
    assert pending.next_call(24.9) is None
    again = called(pending, 25.0)
    assert (again.kind, again.image) == (CallKind.PROBE, "a")


def test_the_store_refusing_in_a_row_stops_the_run() -> None:
    pending = schedule(Policy(refusals=3), u="a")
    for now in range(3):
        assert pending.stop_reason is None
        pending.postponed(called(pending, now), now + 1, "wrong key")
    assert pending.stop_reason == "the store failed 3 times in a row: wrong key"


def test_one_outage_counts_once_whatever_the_number_of_workers() -> None:
    pending = schedule(Policy(refusals=2), **{f"u{n}": "a" for n in range(8)})
    for call in list(calls(pending)):
        pending.postponed(call, 15.0, "503")
    assert pending.stop_reason is None
    for call in list(calls(pending, 15.0)):
        pending.postponed(call, 30.0, "503")
    assert pending.stop_reason is not None


@pytest.mark.parametrize("probing", [False, True])
def test_a_success_ends_the_row_of_refusals(probing: bool) -> None:
    pending = schedule(Policy(refusals=2), u="ab", w="a")
    if probing:
        strike(pending, "u", 2)
    first, second = called(pending), called(pending)
    pending.postponed(first, 1.0, "503")
    if probing:
        pending.probed(second)
    else:
        pending.committed(second, 1, 0)
    pending.postponed(called(pending, 1.0), 2.0, "503")
    assert pending.stop_reason is None


def test_too_many_failed_rows_stop_the_run() -> None:
    pending = schedule(Policy(failed_share=0.05, failed_after=200), a="a", b="b", c="c")
    pending.committed(called(pending), 0, 199)
    assert pending.stop_reason is None, "199 images say nothing yet"
    pending.committed(called(pending), 1, 0)
    assert pending.stop_reason is not None
    assert pending.stop_reason.startswith("199 of 200 images failed")


def test_a_tolerable_share_of_failed_rows_does_not() -> None:
    pending = schedule(Policy(failed_share=0.05, failed_after=200), a="a", b="b")
    pending.committed(called(pending), 190, 10)
    assert pending.stop_reason is None
    pending.committed(called(pending), 0, 1)
    assert pending.stop_reason is not None


def test_workers_that_only_die_stop_the_run() -> None:
    pending = schedule(Policy(deaths=3), a="a", b="b", c="c")
    for _ in range(3):
        assert pending.stop_reason is None
        pending.struck(called(pending), "process_killed")
    assert pending.stop_reason is not None
    assert "process_killed" in pending.stop_reason


def test_deaths_after_a_commit_do_not() -> None:
    pending = schedule(Policy(deaths=3), a="abc", b="b")
    first, second = called(pending), called(pending)
    pending.committed(second, 0, 1)
    pending.struck(first, "process_killed")
    for _ in range(3):
        pending.struck(called(pending), "process_killed")
    assert pending.stop_reason is None


def test_a_unit_of_killers_does_not_stop_a_run_that_works() -> None:
    """Else the same command would meet the same killers first, again and again."""
    pending = schedule(Policy(deaths=4), u="abcdefgh")
    strike(pending, "u", 2)
    for call in list(calls(pending)):
        if call.image in ("a", "h"):
            pending.probed(call)
        else:
            pending.struck(call, "process_killed")
    assert pending.stop_reason is None
    assert called(pending).poisoned.keys() == set("bcdefg")


def test_late_news_of_a_committed_unit_change_nothing() -> None:
    pending = schedule(u="ab")
    strike(pending, "u", 2)
    first, second = called(pending), called(pending)
    pending.committed(Call("u", CallKind.UNIT, 99), 2, 0)
    pending.struck(first, "process_killed")
    pending.probed(second)
    pending.interrupted(second)
    pending.postponed(second, 1.0, "503")
    assert pending.finished
    assert pending.next_call(2.0) is None


def test_what_failed_before_and_fails_again_stops_nothing() -> None:
    units, policy = {"a": "abcdefghij", "b": "klmnopqrst"}, Policy(failed_share=0.05, failed_after=10)
    pending, again = schedule(policy, **units), schedule(policy, EarlierFailures(failed=10), **units)
    pending.committed(called(pending), 0, 10)
    again.committed(called(again), 0, 10)
    assert pending.stop_reason is not None and again.stop_reason is None
    again.committed(called(again), 8, 2)
    assert again.stop_reason is not None, "what failed beyond that is news"


def test_killers_that_are_tried_again_do_not_stop_a_run() -> None:
    """Ten images that killed their workers before, and all do so again: every one gets its row."""
    images = "abcdefghij"
    pending = schedule(Policy(deaths=10), EarlierFailures(failed=10, killed=10), a=images)
    while not pending.finished:
        call = called(pending)
        if len(call.poisoned) == len(images):
            pending.committed(call, 0, 10)
        else:
            pending.struck(call, "process_killed")
        assert pending.stop_reason is None


def test_a_failed_device_is_not_the_images_fault_and_others_go_first() -> None:
    pending = schedule(u="abc", w="a")
    pending.device_failed(called(pending), 60.0, "CUDA error")
    assert called(pending).unit == "w"
    assert pending.next_call(59.0) is None
    for now in range(60, 60 * DEVICE_FAILURES_ALLOWED, 60):
        pending.device_failed(called(pending, now), now + 60, "CUDA error")
    again = called(pending, 60.0 * DEVICE_FAILURES_ALLOWED)
    assert (again.unit, again.kind, again.poisoned) == ("u", CallKind.UNIT, {})
    pending.committed(again, 3, 0)


def test_an_image_that_breaks_every_device_fails_alone_in_the_end() -> None:
    pending, now, broken = schedule(u="abc"), 0.0, 0
    while not pending.finished:
        call = pending.next_call(now)
        if call is None:
            now += 60.0
        elif (call.image or "b") == "b" and "b" not in call.poisoned:
            pending.device_failed(call, now + 60.0, "CUDA error")
            broken += 1
        elif call.kind is CallKind.PROBE:
            pending.probed(call)
        else:
            assert call.poisoned == {"b": "device_failed"}
            pending.committed(call, 2, 1)
    assert broken == DEVICE_FAILURES_ALLOWED + STRIKES_TO_ISOLATE + 1
    assert pending.stop_reason is None


def test_devices_that_only_fail_stop_the_run_and_say_why() -> None:
    pending, now = schedule(Policy(deaths=5), a="a", b="b"), 0.0
    for _ in range(5):
        assert pending.stop_reason is None
        now += 60.0
        pending.device_failed(called(pending, now), now, "CUDA error: uncorrectable ECC error")
    assert pending.stop_reason is not None
    assert "uncorrectable ECC error" in pending.stop_reason


def test_a_failed_device_during_a_probe_is_not_the_images_fault() -> None:
    pending = schedule(u="a")
    strike(pending, "u", 2)
    pending.device_failed(called(pending), 60.0, "CUDA error")
    assert pending.next_call(59.0) is None
    again = called(pending, 60.0)
    assert (again.kind, again.image) == (CallKind.PROBE, "a")
    pending.probed(again)
    assert called(pending, 60.0).poisoned == {}

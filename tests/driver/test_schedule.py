"""Every decision about units and images, one by one."""

from __future__ import annotations

from collections.abc import Iterator

from ncbatch.driver.dealing import Kind
from ncbatch.driver.health import Place
from ncbatch.driver.limits import Outcome, Policy
from ncbatch.driver.schedule import Call, CallKind, Schedule

HERE, THERE = Place("here"), Place("there")


def schedule(*, policy: Policy | None = None, at: tuple[Place, ...] = (HERE,), **units: str) -> Schedule:
    """Units by name with one letter per image; all weigh as many as they have images."""
    pending = Schedule(
        {unit: list(images) for unit, images in units.items()},
        {unit: len(images) for unit, images in units.items()},
        policy,
    )
    pending.workers_at(at)
    return pending


def called(pending: Schedule, place: Place = HERE, now: float = 0.0) -> Call:
    """The next call of work; the trials before it pass."""
    while True:
        call = pending.next_call(now, place)
        assert call is not None
        if call.kind is not CallKind.TRIAL:
            return call
        pending.trial_passed(place)


def calls(pending: Schedule, place: Place = HERE, now: float = 0.0) -> Iterator[Call]:
    while call := pending.next_call(now, place):
        yield call


def new_process(place: Place) -> Place:
    """Whoever fails is replaced."""
    return Place(place.node, place.device, place.host, place.process + 1)


def poisoned(call: Call) -> dict[str, str]:
    return {image: blame.reason for image, blame in call.poisoned.items()}


def strike(pending: Schedule, unit: str, place: Place = HERE, times: int = 1) -> Place:
    """Fails a unit so often, each time in a new process, and passes the trials."""
    for _ in range(times):
        call = called(pending, place)
        assert (call.unit, call.kind) == (unit, CallKind.UNIT)
        pending.struck(call, place, "process_killed", 0.0)
        place = new_process(place)
    return place


def committed(pending: Schedule, call: Call, ok: int, place: Place = HERE, **failed: int) -> None:
    pending.committed(call, place, Outcome(ok, failed))


def test_an_empty_run_is_finished() -> None:
    pending = schedule()
    assert pending.finished
    assert pending.next_call(0.0, HERE) is None


def test_longest_first_and_each_once() -> None:
    pending = Schedule({u: ["i"] for u in "abcd"}, {"a": 1.0, "b": 3.0, "c": 2.0, "d": 3.0})
    assert [call.unit for call in calls(pending)] == ["b", "d", "c", "a"]
    assert not pending.finished
    assert pending.open_units == 4


def test_a_worker_goes_on_with_the_model_and_the_images_that_it_has() -> None:
    kinds = {
        f"{model}{method}{images}": Kind(model, images)
        for model in "xy"
        for method in "mn"
        for images in (1, 2)
    }
    pending = Schedule({u: ["i"] for u in kinds}, dict.fromkeys(kinds, 1.0), kinds=kinds)
    last, order = None, []
    while call := pending.next_call(0.0, HERE, last):
        last = call.unit
        order.append(last)
    assert order == ["xm1", "xn1", "xm2", "xn2", "ym1", "yn1", "ym2", "yn2"]


def test_a_unit_that_is_avoided_here_waits_on_for_others() -> None:
    kinds = {unit: Kind("x", n) for n, unit in enumerate("ab", 1)}
    pending = Schedule({u: ["i", "j"] for u in "ab"}, {"a": 2.0, "b": 1.0}, kinds=kinds)
    pending.workers_at((HERE, THERE))
    call = called(pending)
    assert call.unit == "a"
    pending.struck(call, HERE, "process_killed", 0.0)
    again = new_process(HERE)
    assert called(pending, again).unit == "b"
    assert pending.next_call(0.0, THERE, "b") == Call("a", CallKind.UNIT, pending._calls)


def test_of_a_large_run_some_units_are_drawn_at_random() -> None:
    units = {f"{n:04d}": ["image"] * 100 for n in range(400)}
    pending = Schedule(units, {unit: -float(unit) for unit in units})
    order = [call.unit for call in calls(pending)]
    assert sorted(order) == sorted(units), "each once"
    assert min(int(unit) for unit in order[:8]) > 7, "not the longest"
    later = [int(unit) for n, unit in enumerate(order[:100]) if n > 8 and n % 8]
    assert later == sorted(later) and later[-1] < 100, "all but one of eight are the longest that are left"


def test_a_commit_ends_a_unit() -> None:
    pending = schedule(u="ab")
    call = called(pending)
    assert (call.kind, call.image, poisoned(call)) == (CallKind.UNIT, None, {})
    committed(pending, call, 2)
    assert pending.finished
    assert pending.stop_reason is None


def test_a_second_commit_of_a_unit_counts_once() -> None:
    pending = schedule(policy=Policy(failed_after=2, failed_share=0.4), u="a", w="b", x="c")
    first = called(pending)
    committed(pending, first, 1)
    committed(pending, first, 0, unreadable=1)
    committed(pending, called(pending), 1)
    assert pending.stop_reason is None


def test_after_a_failure_a_place_is_tried_before_it_works_again() -> None:
    pending = schedule(u="ab", w="a")
    pending.struck(called(pending), HERE, "internal_error", 0.0)
    trial = pending.next_call(0.0, HERE)
    assert trial is not None and (trial.kind, trial.unit, trial.image) == (CallKind.TRIAL, "u", None)
    pending.trial_passed(HERE)
    assert [call.unit for call in calls(pending)] == ["u", "w"], "a struck unit keeps its place"


def test_the_first_strike_means_again_elsewhere() -> None:
    pending = schedule(at=(HERE, THERE), u="ab")
    strike(pending, "u")
    trial = pending.next_call(0.0, HERE)
    assert trial is not None and trial.kind is CallKind.TRIAL
    pending.trial_passed(HERE)
    assert pending.next_call(0.0, HERE) is None, "another node can try it"
    call = called(pending, THERE)
    assert (call.unit, call.kind, poisoned(call)) == ("u", CallKind.UNIT, {})


def test_another_device_tries_it_where_there_is_one_node() -> None:
    first, second = Place("here", "cuda:0"), Place("here", "cuda:1")
    pending = schedule(at=(first, second), u="ab")
    strike(pending, "u", first)
    pending.trial_passed(first)
    assert pending.next_call(0.0, first) is None
    assert called(pending, second).unit == "u"


def test_strikes_on_two_nodes_isolate_and_only_the_killer_fails() -> None:
    pending = schedule(at=(HERE, THERE), u="abc", later="x")
    strike(pending, "u")
    strike(pending, "u", THERE)
    pending.trial_passed(THERE)
    probes = [called(pending, HERE) for _ in range(3)]
    assert [(call.kind, call.image) for call in probes] == [(CallKind.PROBE, image) for image in "abc"]
    assert called(pending, THERE).unit == "later", "a unit is not called while its images are probed"
    pending.probed(probes[0], HERE)
    pending.struck(probes[1], HERE, "deadline", 0.0)
    pending.probed(probes[2], HERE)
    assert pending.next_call(0.0, HERE) is None, "the other node is to confirm it"
    again = called(pending, THERE)
    assert (again.kind, again.image) == (CallKind.PROBE, "b")
    pending.struck(again, THERE, "process_killed", 0.0)
    pending.trial_passed(THERE)
    last = called(pending, HERE)
    assert (last.unit, last.kind, poisoned(last)) == ("u", CallKind.UNIT, {"b": "process_killed"})
    committed(pending, last, 2, process_killed=1)
    assert pending.open_units == 1


def test_where_there_is_one_node_two_processes_are_evidence() -> None:
    pending = schedule(u="ab")
    place = strike(pending, "u", times=2)
    for _ in range(2):
        probe = called(pending, place)
        assert (probe.kind, probe.image) == (CallKind.PROBE, "a")
        pending.struck(probe, place, "process_killed", 0.0)
        place = new_process(place)
    pending.probed(called(pending, place), place)
    assert poisoned(called(pending, place)) == {"a": "process_killed"}


def test_an_image_alone_in_its_unit_needs_no_probe() -> None:
    pending = schedule(at=(HERE, THERE), u="a")
    strike(pending, "u")
    strike(pending, "u", THERE)
    pending.trial_passed(HERE)
    assert pending.next_call(0.0, HERE) is None, "the trial of the other node decides"
    pending.trial_passed(THERE)
    last = called(pending)
    assert (last.kind, poisoned(last)) == (CallKind.UNIT, {"a": "process_killed"})


def test_what_a_sick_place_says_counts_for_nothing() -> None:
    pending = schedule(at=(HERE, THERE), u="a", v="b")
    strike(pending, "u")
    trial = pending.next_call(0.0, HERE)
    assert trial is not None
    pending.struck(trial, HERE, "internal_error", 0.0, "CUDA error")
    (quarantine,) = pending.quarantines()
    assert (quarantine.place, quarantine.reason) == (HERE, "CUDA error")
    assert pending.next_call(1.0, HERE) is None
    place = strike(pending, "u", THERE)
    again = called(pending, place)
    assert poisoned(again) == {}, "one process of the only node that works has failed"
    committed(pending, again, 1, place)
    trial = pending.next_call(60.0, HERE)
    assert trial is not None and trial.kind is CallKind.TRIAL
    pending.trial_passed(HERE)
    assert pending.quarantines() == []
    assert called(pending, HERE, 60.0).unit == "v"


def test_a_place_that_fails_one_unit_after_the_other_rests_though_its_trials_pass() -> None:
    units = dict.fromkeys("abcdef", "x")
    pending = Schedule(units, dict.fromkeys(units, 1.0))
    pending.workers_at([HERE, THERE])
    place = HERE
    for unit in "abc":
        place = strike(pending, unit, place)
    assert pending.next_call(1.0, place) is None and len(pending.quarantines()) == 1
    assert called(pending, place, 6.0).unit == "d", "a trial in between passed"
    assert pending.quarantines() == []
    pending.struck(Call("d", CallKind.UNIT, 9), place, "internal_error", 6.0)
    assert pending.next_call(15.9, place) is None, "the next rest is twice as long"
    committed(pending, called(pending, place, 16.0), 1, place)
    assert not pending.quarantines()


def test_a_place_that_an_earlier_driver_kept_from_work_has_to_pass_a_trial_first() -> None:
    sick = schedule(at=(HERE, THERE), u="a", v="b")
    strike(sick, "u")
    trial = sick.next_call(0.0, HERE)
    assert trial is not None
    sick.struck(trial, HERE, "internal_error", 0.0, "CUDA error")

    pending = schedule(at=(HERE, THERE), u="a", v="b")
    pending.recall(sick.quarantines(), 100.0)
    assert pending.quarantines() == sick.quarantines()
    trial = pending.next_call(100.0, HERE)
    assert trial is not None and trial.kind is CallKind.TRIAL and trial.unit in ("u", "v")
    call = pending.next_call(100.0, THERE)
    assert call is not None and call.kind is CallKind.UNIT
    pending.trial_passed(HERE)
    assert pending.quarantines() == []
    assert called(pending, HERE, 100.0).kind is CallKind.UNIT


def test_a_place_that_is_all_there_is_left_works() -> None:
    pending = schedule(at=(HERE, THERE), u="a", v="b")
    call = called(pending)
    pending.struck(call, HERE, "internal_error", 0.0)
    trial = pending.next_call(0.0, HERE)
    assert trial is not None
    pending.struck(trial, HERE, "internal_error", 0.0)
    assert pending.next_call(0.0, HERE) is None
    pending.workers_at([HERE])
    assert called(pending).kind is CallKind.UNIT
    assert pending.quarantines(), "and is still known to be sick"
    committed(pending, call, 1)
    assert not pending.quarantines()


def test_struck_again_after_its_probes_it_is_given_up() -> None:
    pending = schedule(u="ab")
    place = strike(pending, "u", times=2)
    for call in [called(pending, place), called(pending, place)]:
        pending.probed(call, place)
    place = strike(pending, "u", place, times=2)
    last = called(pending, place)
    assert (last.kind, poisoned(last)) == (CallKind.UNIT, {"a": "process_killed", "b": "process_killed"})


def test_the_loss_of_a_node_is_no_strike() -> None:
    pending = schedule(u="ab")
    for _ in range(10):
        call = called(pending)
        assert (call.kind, poisoned(call)) == (CallKind.UNIT, {})
        pending.interrupted(call, HERE)
    assert called(pending).kind is CallKind.UNIT


def test_an_interrupted_probe_is_done_again() -> None:
    pending = schedule(u="ab")
    place = strike(pending, "u", times=2)
    for _ in range(10):
        probe = called(pending, place)
        assert (probe.kind, probe.image, poisoned(probe)) == (CallKind.PROBE, "a", {})
        pending.interrupted(probe, place)
    pending.probed(called(pending, place), place)
    pending.probed(called(pending, place), place)
    assert called(pending, place).kind is CallKind.UNIT


def test_a_trial_that_is_lost_with_its_node_says_nothing() -> None:
    pending = schedule(at=(HERE, THERE), u="ab")
    strike(pending, "u")
    trial = pending.next_call(0.0, HERE)
    assert trial is not None and trial.kind is CallKind.TRIAL
    pending.interrupted(trial, HERE)
    assert pending.quarantines() == []
    again = pending.next_call(0.0, HERE)
    assert again is not None and again.kind is CallKind.TRIAL


def test_a_refused_call_waits() -> None:
    pending = schedule(at=(HERE, THERE), u="ab", w="a")
    pending.postponed(called(pending, HERE, 10.0), HERE, 10.0, 25.0, "down")
    assert pending.next_call(10.0, HERE) is None, "and so does the place"
    assert called(pending, THERE, 24.9).unit == "w"
    assert pending.next_call(24.9, THERE) is None
    assert called(pending, THERE, 25.0).unit == "u"
    assert pending.stop_reason is None


def test_a_refused_probe_waits_too() -> None:
    pending = schedule(u="ab")
    place = strike(pending, "u", times=2)
    probe = called(pending, place, 10.0)
    pending.postponed(probe, place, 10.0, 25.0, "down")
    other = called(pending, place, 20.0)
    assert other.image == "b"
    pending.probed(other, place)
    assert pending.next_call(24.9, place) is None
    again = called(pending, place, 25.0)
    assert (again.kind, again.image) == (CallKind.PROBE, "a")


def test_late_news_of_a_committed_unit_change_nothing() -> None:
    pending = schedule(u="ab")
    place = strike(pending, "u", times=2)
    first, second = called(pending, place), called(pending, place)
    committed(pending, Call("u", CallKind.UNIT, 99), 2)
    pending.struck(first, place, "process_killed", 0.0)
    pending.probed(second, place)
    pending.interrupted(second, place)
    pending.postponed(second, place, 0.0, 1.0, "503")
    assert pending.finished
    assert [call.kind for call in calls(pending, place, 60.0)] in ([], [CallKind.TRIAL])


def test_an_image_that_breaks_every_device_fails_alone_in_the_end() -> None:
    places = [HERE, THERE]
    pending = schedule(at=(HERE, THERE), u="abc")
    broken = 0
    for turn in range(100):
        if pending.finished:
            break
        place = places[turn % 2]
        call = pending.next_call(float(turn), place)
        if call is None:
            continue
        if call.kind is CallKind.TRIAL:
            pending.trial_passed(place)
        elif (call.image or "b") == "b" and "b" not in call.poisoned:
            pending.struck(call, place, "device_failed", float(turn))
            places[turn % 2] = new_process(place)
            pending.workers_at(places)
            broken += 1
        elif call.kind is CallKind.PROBE:
            pending.probed(call, place)
        else:
            assert poisoned(call) == {"b": "device_failed"}
            committed(pending, call, 2, place, device_failed=1)
    assert pending.finished and pending.stop_reason is None
    assert broken == 4, "twice under the unit, twice under the image"


def test_a_node_that_joins_is_asked_before_an_image_is_given_up() -> None:
    pending = schedule(u="a", v="b")
    place = strike(pending, "u", times=2)
    pending.workers_at([place, THERE])
    assert called(pending, place).unit == "v", "what two processes of one node say is not enough any more"
    again = called(pending, THERE)
    assert (again.unit, poisoned(again)) == ("u", {})

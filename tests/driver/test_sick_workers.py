"""Whole runs on a clock that is played, with workers that are sick in one way or another."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import pytest

from ncbatch.driver.health import Place
from ncbatch.driver.limits import Outcome
from ncbatch.driver.schedule import Call, CallKind, Schedule

UNIT_SECONDS = 300.0
SICK_SECONDS = 0.02
START_SECONDS = 5.0
TRIAL_SECONDS = 1.0


@dataclass
class Cluster:
    """Workers, one on each GPU, and what is wrong with some of them from a time on.

    sick: fails whatever it is asked, at once. unlucky: passes trials, and fails all else.
    refused: has no credentials. killers: images that kill any worker.
    """

    nodes: int
    gpus: int
    sick: Mapping[Place, float] = field(default_factory=dict)
    unlucky: Collection[Place] = ()
    refused: Collection[Place] = ()
    killers: Collection[str] = ()

    @property
    def places(self) -> list[Place]:
        return [Place(f"node-{n}", f"cuda:{g}") for n in range(self.nodes) for g in range(self.gpus)]


@dataclass
class Told:
    ok: int
    failed: Counter[str]
    stop_reason: str | None
    seconds: float
    struck: int


def run(cluster: Cluster, units: int, images: int) -> Told:
    """Carries out a run of so many units of so many images; what came of it."""
    names = {f"u{n:05d}": [f"u{n:05d}-{i}" for i in range(images)] for n in range(units)}
    schedule = Schedule(names, dict.fromkeys(names, 1.0))
    here = {place.key: place for place in cluster.places}
    schedule.workers_at(list(here.values()))
    told = Told(0, Counter(), None, 0.0, 0)
    now, number = 0.0, 0
    ends: list[tuple[float, int, Place, Call]] = []
    idle_at = dict.fromkeys(here, 0.0)
    while not schedule.finished and schedule.stop_reason is None:
        for key, place in here.items():
            if key not in idle_at or idle_at[key] > now:
                continue
            call = schedule.next_call(now, place)
            if call is not None:
                del idle_at[key]
                number += 1
                heapq.heappush(
                    ends, (now + seconds_of(cluster, place, call, images, now), number, place, call)
                )
        next_idle = min((at for at in idle_at.values() if at > now), default=now + 5.0)
        now = min(ends[0][0] if ends else next_idle, next_idle)
        while ends and ends[0][0] <= now:
            _, _, place, call = heapq.heappop(ends)
            lost = end(schedule, cluster, names, told, place, call, now)
            idle_at[place.key] = now + (START_SECONDS if lost else 0.0)
            if lost:
                number += 1
                here[place.key] = Place(place.node, place.device, place.host, number)
                schedule.workers_at(list(here.values()))
        assert now < 1e6, "the run does not end"
    told.stop_reason, told.seconds = schedule.stop_reason, now
    return told


def is_sick(cluster: Cluster, place: Place, now: float) -> bool:
    return any(sick.key == place.key and now >= since for sick, since in cluster.sick.items())


def among(place: Place, places: Collection[Place]) -> bool:
    return any(place.key == other.key for other in places)


def seconds_of(cluster: Cluster, place: Place, call: Call, images: int, now: float) -> float:
    if is_sick(cluster, place, now) or among(place, cluster.refused) or len(call.poisoned) == images:
        return SICK_SECONDS
    if call.kind is CallKind.TRIAL:
        return TRIAL_SECONDS
    if among(place, cluster.unlucky):
        return SICK_SECONDS
    return UNIT_SECONDS if call.kind is CallKind.UNIT else UNIT_SECONDS / images


def end(
    schedule: Schedule,
    cluster: Cluster,
    names: Mapping[str, list[str]],
    told: Told,
    place: Place,
    call: Call,
    now: float,
) -> bool:
    """Tells the schedule how a call ended; whether the worker was lost with it."""
    touched = [call.image] if call.image else [i for i in names[call.unit] if i not in call.poisoned]
    works = call.kind is CallKind.TRIAL or touched
    if works and among(place, cluster.refused):
        schedule.postponed(call, place, now, now + 15.0, "denied access")
    elif works and is_sick(cluster, place, now):
        schedule.struck(call, place, "internal_error", now)
        return True
    elif call.kind is CallKind.TRIAL:
        schedule.trial_passed(place)
    elif touched and (among(place, cluster.unlucky) or set(touched) & set(cluster.killers)):
        schedule.struck(call, place, "process_killed", now)
        told.struck += 1
        return True
    elif call.kind is CallKind.PROBE:
        schedule.probed(call, place)
    else:
        told.ok += len(touched)
        told.failed.update(call.poisoned.keys())
        reasons = Counter(blame.reason for blame in call.poisoned.values())
        schedule.committed(call, place, Outcome(len(touched), {}, reasons))
    return False


IDEAL = 400 / 16 * UNIT_SECONDS
"""Seconds that 400 units take 16 workers."""


@pytest.mark.parametrize("since", [0.0, 310.0, 3600.0])
def test_one_sick_gpu_of_sixteen_fails_no_image_and_costs_its_own_share(since: float) -> None:
    told = run(Cluster(2, 8, sick={Place("node-1", "cuda:3"): since}), 400, 100)
    assert (told.ok, told.failed, told.stop_reason) == (40_000, Counter(), None)
    assert told.seconds < IDEAL * 16 / 15 + 2 * UNIT_SECONDS


@pytest.mark.parametrize("node", ["sick", "unlucky", "refused"])
def test_a_node_that_fails_what_others_do_fails_no_image(node: str) -> None:
    """Eight GPUs of sixteen, also where they do well in trials."""
    bad = [Place("node-1", f"cuda:{n}") for n in range(8)]
    told = run(Cluster(2, 8, **{node: dict.fromkeys(bad, 0.0)}), 400, 100)  # type: ignore[arg-type]
    assert (told.ok, told.failed, told.stop_reason) == (40_000, Counter(), None)
    assert told.seconds < 2 * IDEAL + 2 * UNIT_SECONDS


@pytest.mark.parametrize("images", [1, 20])
def test_killers_fail_and_they_alone_beside_a_sick_gpu(images: int) -> None:
    killers = [f"u{n:05d}-{n % images}" for n in range(0, 400, 40)]
    cluster = Cluster(4, 2, sick={Place("node-0", "cuda:0"): 50.0}, killers=killers)
    told = run(cluster, 400, images)
    assert told.stop_reason is None
    assert sorted(told.failed) == sorted(killers)
    assert told.ok == 400 * images - len(killers)
    assert told.struck == len(killers) * (2 if images == 1 else 4), "workers lost to each killer"


def test_killers_alone_on_one_worker_come_to_an_end() -> None:
    killers = [f"u{n:05d}-0" for n in range(10, 15)]
    told = run(Cluster(1, 1, killers=killers), 20, 1)
    assert sorted(told.failed) == killers and told.stop_reason is None


def test_sick_everywhere_the_run_stops_and_blames_no_image() -> None:
    places = Cluster(2, 2).places
    told = run(Cluster(2, 2, sick=dict.fromkeys(places, 1000.0)), 100, 10)
    assert told.failed == Counter()
    assert told.stop_reason is not None and "none works any more" in told.stop_reason
    assert told.seconds < 2000.0

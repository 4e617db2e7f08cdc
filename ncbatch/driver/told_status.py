"""How far a run is by its driver's word: from one small object, however large the run is."""

from __future__ import annotations

from ncbatch.driver.progress import Snapshot
from ncbatch.metrics.summary import summary_of
from ncbatch.metrics.unit_result import UnitResult
from ncbatch.plan.generations import latest_generation
from ncbatch.plan.spec import RunSpec
from ncbatch.plan.status import RunStatus
from ncbatch.store import Store


def told_status(output: Store, spec: RunSpec, snapshot: Snapshot) -> RunStatus | None:
    """What a driver's last snapshot says; None where it does not tell all, or more was planned since.

    It is for a driver that is at work, or that ended with all done: of any other run, more may be committed
    than its driver knew.
    """
    plan = snapshot.plan
    if plan is None or plan.generation != latest_generation(output):
        return None
    return RunStatus(
        spec=spec,
        inputs=plan.inputs,
        images=snapshot.images,
        pending=snapshot.pending,
        units=plan.units,
        committed_units=snapshot.committed_units,
        summary=summary_of(
            {
                count.name: UnitResult(
                    ok=count.ok,
                    failed=count.failed,
                    bpp=(count.mean_bpp or 0.0) * count.ok,
                    psnr=(count.mean_psnr or 0.0) * (count.ok - count.exact),
                    exact=count.exact,
                    image_bytes=count.image_bytes,
                    length=count.bitstream_bytes,
                )
                for count in snapshot.variants
                if count.ok or count.failed
            }
        ),
    )

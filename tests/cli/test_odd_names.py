"""Names that the locale cannot tell: planned, encoded, queried and decoded where there is ASCII only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.end_to_end.command_line import HANG_SECONDS, ROOT, environment
from tests.end_to_end.images import save_image

NAMES = {"é.png": "é.png", "日本.png": "日本.png", os.fsdecode(b"caf\xe9.png"): "caf\\xe9.png"}

_RUN = r"""
import pickle, sys
from ncbatch.cli.main import main
from ncbatch.codec.methods import Jpeg
from ncbatch.plan.spec import Variant
from ncbatch.worker.unit import run_unit
from ncbatch.store import open_store
from tests.workbench import ATTEMPTS, Workbench

assert sys.getfilesystemencoding() == "ascii", sys.getfilesystemencoding()
folder = sys.argv[1]
corpus, output = open_store(folder + "/in"), open_store(folder + "/in/out", create=True)
bench = Workbench(corpus, output, True)
spec = bench.spec(Variant(name="jpeg", recipe=Jpeg(quality=50)))
for attempt in ATTEMPTS[:2]:
    run = bench.open(spec)
    # As they travel to a worker.
    spec_there, (unit,), places = pickle.loads(pickle.dumps((spec, run.units, (corpus, output))))
    run_unit(Workbench(*places, True).workspace(spec_there), unit, attempt, {})
print(*sorted(ascii((row.image_key, row.status)) for row in bench.rows().values()), sep="\n")
sql = "select image_key from metrics where image_key <> '\\xe9' order by image_key"
assert main(["query", output.uri, sql, "--format", "csv"]) == 0
assert main(["query", output.uri, sql]) == 0
assert main(["verify", output.uri]) == 0
sys.exit(main(["decode", output.uri, folder + "/decoded"]))
"""


def test_names_that_the_locale_cannot_tell(tmp_path: Path) -> None:
    for seed, name in enumerate(NAMES):
        save_image(tmp_path / "in" / name, seed)
    env = environment(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    command = (sys.executable, "-c", _RUN, str(tmp_path))
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == sorted(ascii((key, "ok")) for key in NAMES.values())
    shown = ["image_key", "caf\\xe9.png", "\\xe9.png", "\\u65e5\\u672c.png"]
    assert [line.strip('" ') for line in lines[3:11]] == [*shown, *shown]
    assert lines[11].startswith("3 ") and lines[-1].startswith("3 ")
    written = {path.name for path in (tmp_path / "decoded").iterdir()} - {".ncbatch-tmp"}
    assert written == NAMES.keys()

"""The stack of infra/aws; what its policies allow is shown in tests/end_to_end/test_permissions.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.infra.manifests import ROOT

TEMPLATE = ROOT / "infra" / "aws" / "ncbatch.yaml"


def test_the_template_has_no_findings() -> None:
    program = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([program, str(TEMPLATE)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

"""The main job on a cluster: `ray job submit --working-dir . -- python jobs/encode.py CORPUS OUTPUT ...`.

Takes the arguments of `ncbatch encode`; or `--request JSON`, which `ncbatch submit` writes.
"""

import sys

from ncbatch.cli.main import main

if __name__ == "__main__":
    if sys.argv[1:2] == ["--request"]:
        sys.argv[1] = "encode-request"
    else:
        sys.argv.insert(1, "encode")
    sys.exit(main())

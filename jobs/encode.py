"""The main job on a cluster: `ray job submit --working-dir . -- python jobs/encode.py CORPUS OUTPUT ...`.

Takes the arguments of `ncbatch encode`.
"""

import sys

from ncbatch.cli.main import main

if __name__ == "__main__":
    sys.argv.insert(1, "encode")
    sys.exit(main())

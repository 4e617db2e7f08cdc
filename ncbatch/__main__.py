"""`python -m ncbatch` is `ncbatch`."""

import sys

from ncbatch.cli.main import main

sys.exit(main())

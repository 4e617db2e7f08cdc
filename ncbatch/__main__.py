"""`python -m ncbatch` is `ncbatch`."""

import sys

from ncbatch.cli import main

sys.exit(main())

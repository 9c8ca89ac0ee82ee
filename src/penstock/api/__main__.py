"""`python -m penstock.api`."""

import sys

from penstock.api.process import main

if __name__ == "__main__":
    sys.exit(main())

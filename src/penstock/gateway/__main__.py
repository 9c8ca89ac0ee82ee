"""`python -m penstock.gateway`."""

import sys

from penstock.gateway.process import main

if __name__ == "__main__":
    sys.exit(main())

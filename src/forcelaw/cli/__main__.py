"""``python -m forcelaw.cli``."""

import sys

from .main import main

sys.exit(main())

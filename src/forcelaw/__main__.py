"""``python -m forcelaw`` is the command ``forcelaw``."""

import sys

from .cli.main import main

sys.exit(main())

"""``python -m graphs.cli`` is ``junto``."""

import sys

from graphs.cli.main import main

sys.exit(main())

"""``python -m llmbook.cli`` is ``llmbook``."""

import sys

from llmbook.cli import main

sys.exit(main())

"""``python -m llmbook`` is ``llmbook``; torchrun starts it so."""

import sys

from llmbook.cli import main

sys.exit(main())

"""``python -m colm.cli``, for launchers that start modules: ``torchrun -m colm.cli sft ...``."""

import sys

from colm.cli import main

sys.exit(main())

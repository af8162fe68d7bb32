"""Where real images lie, for tests that skip without them: LESIONFLOW_DATA, or a folder beside the checkout."""

import os
from pathlib import Path

REAL_IMAGES = Path(os.environ.get("LESIONFLOW_DATA", Path(__file__).parents[2] / "shared" / "data"))

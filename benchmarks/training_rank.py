"""What the benchmark's training processes import (LESIONFLOW_SYSTEMS): it may have images read from the store."""

import os
from types import SimpleNamespace

from tasks.engine import data

FROM_STORE = "BENCHMARK_FROM_STORE"

if FROM_STORE in os.environ:
    data.loading_memory = lambda *_: SimpleNamespace(in_memory=False)

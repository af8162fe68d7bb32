"""What the benchmark's training processes import (LESIONFLOW_SYSTEMS): their number of threads, whence images come."""

import os
from types import SimpleNamespace

import torch

from tasks.engine import data

THREADS, FROM_STORE = "BENCHMARK_THREADS", "BENCHMARK_FROM_STORE"

if THREADS in os.environ:
    torch.set_num_threads(int(os.environ[THREADS]))
if FROM_STORE in os.environ:
    data.loading_memory = lambda *_: SimpleNamespace(in_memory=False)

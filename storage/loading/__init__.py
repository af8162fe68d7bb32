"""From a cohort to batches of tensors: cases or patches, read in any worker, with the memory told before the start."""

from storage.loading.batches import padded_batch, prefetched
from storage.loading.failures import LoadingError, explained, explained_failures
from storage.loading.images import CohortImages
from storage.loading.memory import MemoryEstimate, available_memory, memory_estimate, memory_needed
from storage.loading.patches import CohortPatches

__all__ = [
    "CohortImages",
    "CohortPatches",
    "LoadingError",
    "MemoryEstimate",
    "available_memory",
    "explained",
    "explained_failures",
    "memory_estimate",
    "memory_needed",
    "padded_batch",
    "prefetched",
]

"""Several trainings side by side on one machine: which GPUs, or how many threads, each of them has."""

import os

import torch


def at_once(devices: int) -> int:
    """How many trainings of so many devices the machine takes: as many as there are groups of GPUs, or one on a CPU."""
    return max(1, len(device_groups(devices)))


def share(slot: int, parallel: int, devices: int) -> dict[str, str]:
    """The environment of training number `slot` of `parallel`: GPUs of its own, or its part of the cores."""
    if parallel == 1:
        return {}
    if groups := device_groups(devices):
        return {"CUDA_VISIBLE_DEVICES": groups[slot % len(groups)]}
    threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or cores() // (parallel * devices)
    return {"OMP_NUM_THREADS": str(max(1, threads))}


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def device_groups(devices: int) -> list[str]:
    """The GPUs of this machine in groups of `devices`, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))
    names = [name.strip() for name in named.split(",")][:count]
    return [",".join(names[at : at + devices]) for at in range(0, count - devices + 1, devices)]

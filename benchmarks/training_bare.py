"""The floor of a training: the loop that a user would write around the same network, batches, loss and optimiser.

    python -m benchmarks.training_bare JOB_FILE ANSWER_FILE

With RANK and WORLD_SIZE in the environment it is one of several processes under DistributedDataParallel on a CPU, or,
with --apart, one of several that do the same work and never speak to each other.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

import benchmarks.training_rank  # noqa: F401 its threads, before anything runs
from models.localization.iterative_refinement import IterativeRefinement, grade_loss, optimiser, schedule
from models.registry import build
from tasks.engine.data import CohortData
from tasks.engine.job import TrainingJob
from tasks.engine.rank import derived_seed

REDUCTIONS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("answer", type=Path)
    parser.add_argument("--apart", action="store_true")
    options = parser.parse_args()
    job = TrainingJob.model_validate_json(options.job.read_text())
    rank, together = int(os.environ.get("RANK", 0)), job.devices > 1 and not options.apart
    if together:
        distributed.init_process_group("gloo")
    answer = train(job, rank, together)
    if together:
        answer["reduction"] = seconds_of_reduction(answer["gradient_bytes"])
        distributed.destroy_process_group()
    if rank == 0 or options.apart:
        options.answer.write_text(json.dumps(answer))


def train(job: TrainingJob, rank: int, together: bool) -> dict[str, Any]:
    """Seconds a step of each epoch, and when the first step was done (seconds since 1970)."""
    torch.manual_seed(job.seed)
    system = build(job.system, job.config)
    assert isinstance(system, IterativeRefinement)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    system.to(device).train()
    network: nn.Module = DistributedDataParallel(system.network) if together else system.network
    data = CohortData(job, job.trainer, derived_seed(job.seed, 0), rank)
    place = [0]
    data.position = lambda: (place[0], 0)
    loader = data.train_dataloader()
    chosen = optimiser(system.network, system.config.optimiser)
    constant = system.config.optimiser.schedule == "constant"
    rates = None if constant else schedule(chosen, system.config.optimiser, job.trainer.max_epochs * len(loader))
    steps, first, losses = [], 0.0, []
    for epoch in range(job.trainer.max_epochs):
        place[0] = epoch
        started = time.perf_counter()
        total = torch.zeros((), device=device)
        for batch in loader:
            chosen.zero_grad()
            loss = loss_of(system, network, {key: value.to(device, non_blocking=True) for key, value in batch.items()})
            loss.backward()
            clip_grad_norm_(network.parameters(), job.trainer.gradient_clip or torch.inf)
            chosen.step()
            if rates is not None:
                rates.step()
            total += loss.detach()
            first = first or time.time()
        losses.append(float(total) / len(loader))
        steps.append((time.perf_counter() - started) / len(loader))
    if rank == 0:
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in system.state_dict().items()}, job.folder / "bare"
        )
    count = sum(weight.numel() * weight.element_size() for weight in network.parameters())
    return {"steps": steps, "first": first, "losses": losses, "gradient_bytes": count}


def loss_of(system: IterativeRefinement, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return grade_loss(network(system.to_input(batch["image"]))[:, 0], batch["label"])


def seconds_of_reduction(count: int) -> float:
    """What summing that many bytes over the processes takes, when nothing else is done."""
    gradients = torch.ones(count // 4)
    for number in range(REDUCTIONS + 1):
        if number == 1:
            started = time.perf_counter()
        distributed.all_reduce(gradients)
        gradients.fill_(1)
    return (time.perf_counter() - started) / REDUCTIONS


if __name__ == "__main__":
    main()

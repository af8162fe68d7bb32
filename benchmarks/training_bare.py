"""The floor of a training: the loop that a user would write around the same network, batches, loss and optimiser.

    python -m benchmarks.training_bare JOB_FILE ANSWER_FILE

With RANK and WORLD_SIZE in the environment it is one of several processes under DistributedDataParallel on a CPU, or,
with --apart, one of several that do the same work and never speak to each other.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from models.localization.iterative_refinement import IterativeRefinement, grade_loss
from models.optimisers import optimiser, schedule
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
    system.to("cuda" if torch.cuda.is_available() else "cpu").train()
    network: nn.Module = DistributedDataParallel(system.network) if together else system.network
    data, epoch = CohortData(job, job.trainer, derived_seed(job.seed, 0), rank), 0
    data.position = lambda: (epoch, 0)
    loader, moments = data.train_dataloader(), Moments()
    update = updating(job, system, network, job.trainer.max_epochs * len(loader))
    for epoch in range(job.trainer.max_epochs):  # noqa: B007 `data` reads it
        moments.begin()
        total = torch.zeros((), device=system.device)
        for batch in loader:
            total += update(batch)
            moments.note_first()
        float(total)  # waits for a GPU
        moments.end(len(loader))
    if rank == 0:
        weights = {name: tensor.cpu().contiguous() for name, tensor in system.state_dict().items()}
        save_file(weights, job.folder / "bare")
    count = sum(weight.numel() * weight.element_size() for weight in network.parameters())
    return {"steps": moments.steps, "first": moments.first, "gradient_bytes": count}


def updating(
    job: TrainingJob, system: IterativeRefinement, network: nn.Module, steps: int
) -> Callable[[dict[str, Tensor]], Tensor]:
    """An optimiser step on a batch; it answers with the loss."""
    config = system.config.optimiser
    chosen = optimiser(system.network, config)
    rates = None if config.schedule == "constant" else schedule(chosen, config, steps)
    largest = job.trainer.gradient_clip or torch.inf

    def update(batch: dict[str, Tensor]) -> Tensor:
        image, grade = (batch[key].to(system.device, non_blocking=True) for key in ("image", "label"))
        chosen.zero_grad()
        loss = grade_loss(network(system.to_input(image))[:, 0], grade)
        loss.backward()
        clip_grad_norm_(network.parameters(), largest)
        chosen.step()
        if rates is not None:
            rates.step()
        return loss.detach()

    return update


class Moments:
    """`steps`: seconds a step of each epoch; `first`: when the first step was done."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.started = self.first = 0.0

    def begin(self) -> None:
        self.started = time.perf_counter()

    def note_first(self) -> None:
        self.first = self.first or time.time()

    def end(self, steps: int) -> None:
        self.steps.append((time.perf_counter() - self.started) / steps)


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

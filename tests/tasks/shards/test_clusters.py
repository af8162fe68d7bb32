"""Which cluster the shards go to, by LESIONFLOW_DASK; those of the examples in deployments/dask."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import dask
import pytest
import yaml
from pydantic import TypeAdapter

from models.errors import ModelError
from tasks.clusters import DASK, ClusterSettings, cluster_client, cluster_settings, maker
from tasks.shards import shard_outcomes
from tests.tasks.shards import work

PROJECT = Path(__file__).resolve().parents[3]
EXAMPLES = PROJECT / "deployments" / "dask"
PARTS = [[0], [1], [2], [3]]


def settings_in(folder: Path, text: str) -> ClusterSettings:
    file = folder / "cluster.yaml"
    file.write_text(text)
    return cluster_settings(file)


def test_the_local_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(DASK, str(EXAMPLES / "local.yaml"))
    outcomes = list(shard_outcomes(partial(work.squares, str(tmp_path)), PARTS))
    assert sorted(outcome.answer for outcome in outcomes) == [[0], [1], [4], [9]]
    assert os.getpid() not in work.processes(tmp_path)


@pytest.mark.slow
def test_workers_come_as_they_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "adaptive.yaml"
    file.write_text("{cluster: local, workers: {minimum: 0, maximum: 2}, options: {memory_limit: 0}}")
    monkeypatch.setenv(DASK, str(file))
    folder = tmp_path / "begun"
    folder.mkdir()
    outcomes = list(shard_outcomes(partial(work.squares, str(folder)), PARTS))
    assert len([outcome for outcome in outcomes if outcome.error is None]) == 4


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """A scheduler and a worker that others have started; the worker does not know `tests`."""
    file, environment = tmp_path / "scheduler.json", {key: os.environ[key] for key in os.environ if key != "PYTHONPATH"}
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    command += ["--dashboard-address", ":0", "--scheduler-file", str(file)]
    started = [subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)]
    while not file.exists() or not file.read_text().strip():
        time.sleep(0.1)
    address = json.loads(file.read_text())["address"]
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1"]
    started += [subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)]
    yield address
    for process in reversed(started):
        process.send_signal(signal.SIGINT)
        process.wait(30)


def test_a_scheduler_that_is_there_does_the_work_and_stays(scheduler: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(DASK, scheduler)
    for _ in range(2):
        outcomes = list(shard_outcomes(os.path.basename, ["a/b", "c/d"]))
        assert sorted(outcome.answer for outcome in outcomes) == ["b", "d"]
    lost = list(shard_outcomes(partial(work.squares, "/nowhere"), PARTS[:2]))
    assert [outcome.reason for outcome in lost] == ["No module named 'tests'"] * 2


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(DASK, "tcp://127.0.0.1:9")
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(ModelError, match="no Dask scheduler answers"),
        cluster_client(4),
    ):
        pass


def test_the_slurm_example_asks_for_what_it_says():
    options = cluster_settings(EXAMPLES / "slurm.yaml").options
    with maker("slurm")(**{**options, "interface": None}) as cluster:
        script = cluster.job_script()
    assert "#SBATCH --cpus-per-task=4" in script
    assert "#SBATCH --mem=15G" in script  # 16 GB, in units of 2^30 bytes
    assert "#SBATCH -t 04:00:00" in script
    assert "--nworkers 4" in script
    assert "export OMP_NUM_THREADS=1" in script


def test_the_kubernetes_example_gives_a_well_formed_resource():
    from dask_kubernetes.operator import make_cluster_spec

    options = cluster_settings(EXAMPLES / "kubernetes.yaml").options
    namespace = options.pop("namespace")
    spec = make_cluster_spec(**options)
    [container] = spec["spec"]["worker"]["spec"]["containers"]
    assert namespace == "imaging"
    assert (spec["kind"], spec["metadata"]["name"]) == ("DaskCluster", "lesionflow")
    assert container["image"] == options["image"]
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "4Gi"}
    assert {"name": "OMP_NUM_THREADS", "value": "1"} in container["env"]
    assert container["args"][:4] == ["dask", "worker", "--nthreads", "1"]
    assert spec["spec"]["scheduler"]["spec"]["containers"][0]["image"] == options["image"]
    TypeAdapter(dict).validate_python(yaml.safe_load(yaml.safe_dump(spec)))


def test_the_ssh_example_is_what_an_ssh_cluster_takes():
    import inspect

    options = cluster_settings(EXAMPLES / "ssh.yaml").options
    assert set(options) <= set(inspect.signature(maker("ssh")).parameters)
    assert len(options["hosts"]) > 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{cluster: local, worker: 2}", "worker is not a setting"),
        ("{cluster: pbs}", "cluster: "),
        ("{cluster: slurm, workers: {minimum: 3, maximum: 2}}", "minimum 3 is more than maximum 2"),
        ("{cluster: ssh, options: {hosts: [a]}}", "options.hosts"),
        ("{cluster: ssh, workers: 3, options: {hosts: [a, b]}}", "name more hosts"),
        ("just text", "must say which cluster"),
        ("{", "is no YAML"),
    ],
)
def test_settings_that_cannot_be_are_named_in_one_line(tmp_path: Path, text: str, said: str):
    with pytest.raises(ModelError) as raised:
        settings_in(tmp_path, text)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_neither_a_scheduler_nor_a_file_is_said_so(tmp_path: Path):
    with pytest.raises(ModelError, match="neither a scheduler such as"):
        cluster_settings(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("kind", "package"), [("slurm", "dask_jobqueue"), ("kubernetes", "dask_kubernetes.operator"), ("ssh", "asyncssh")]
)
def test_a_missing_package_names_what_to_install(kind: str, package: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=rf"pip install 'lesionflow\[{kind}\]'"):
        maker(kind)

"""Models in MLflow: exported without pickle, registered, found by any address, and served by MLflow's own server."""

import json
import os
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml
from lightning import Trainer
from torch.utils.data import DataLoader

from models.errors import ModelError
from models.registry import build
from tasks.model_files import describe_model, load_model, save_ensemble, save_model
from tasks.reuse import PROJECT
from tasks.tracking.registry import locate_model, locate_weights, register_model
from tasks.tracking.runs import tracked_run
from tasks.tracking.serving import CODE, export_pyfunc, requirements
from tasks.workspace import Workspace

TINY = {"network": {"size": 32, "stem_stride": 1, "block5_valid": False, "width": 0.05, "head": [4]}}
COLOUR = {"dtype": "uint8", "channels": ["red", "green", "blue"], "dims": ["y", "x"], "grid": [32, 32]}
NAME = "iterative-refinement"


def saved(folder: Path, seed: int = 0, **about: object) -> Path:
    torch.manual_seed(seed)
    system = build(NAME, TINY)
    described = {"target": "grade", "image": COLOUR, **about}
    save_model(folder, NAME, system.config.model_dump(mode="json"), system.state_dict(), **described)
    return folder


def photographs(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def predicted(folder: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    answer = load_model(folder).predict_step({"image": torch.from_numpy(images)})
    return {name: tensor.detach().numpy() for name, tensor in answer.items()}


@pytest.fixture(scope="module")
def registered(shared_workspace: Workspace) -> dict[str, str]:
    """A champion: its model folder, run and version."""
    folder = saved(shared_workspace.root / "champion")
    with tracked_run("train", {}) as run:
        run.log_model(folder)
        version = register_model(run.client, NAME, run.run_id)
    run.client.set_registered_model_alias(NAME, "champion", str(version))
    return {"folder": str(folder), "run": run.run_id, "version": str(version), "uri": run.client.tracking_uri}


def test_export_holds_the_weights_once_and_no_pickle(tmp_path: Path):
    folder = saved(tmp_path / "model")
    out = export_pyfunc(folder, tmp_path / "exported")
    names = [file.name for file in out.rglob("*") if file.is_file()]
    assert names.count("model.safetensors") == names.count("system.json") == 1
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth"))]
    assert not any(file.is_symlink() for file in out.rglob("*"))
    described = yaml.safe_load((out / "MLmodel").read_text())
    [image] = json.loads(described["signature"]["inputs"])
    assert (image["name"], image["tensor-spec"]) == ("image", {"dtype": "uint8", "shape": [-1, 3, 32, 32]})
    outputs = {spec["name"]: spec["tensor-spec"]["shape"] for spec in json.loads(described["signature"]["outputs"])}
    assert outputs == {"score": [-1], "saliency": [-1, 32, 32]}
    assert described["metadata"]["version"] == describe_model(folder)["version"]


def test_model_of_images_of_any_size_says_so(tmp_path: Path):
    folder = saved(tmp_path / "model", image={**COLOUR, "dtype": "uint16", "grid": None})
    about = describe_model(folder)
    assert about["image"]["grid"] is None
    network = {**TINY["network"], "size": 64}
    system = build(NAME, {"network": network})
    save_model(folder, NAME, system.config.model_dump(mode="json"), system.state_dict(), image=about["image"])
    described = yaml.safe_load((export_pyfunc(folder, tmp_path / "exported") / "MLmodel").read_text())
    [image] = json.loads(described["signature"]["inputs"])
    assert image["tensor-spec"] == {"dtype": "uint16", "shape": [-1, 3, -1, -1]}
    assert json.loads(described["signature"]["outputs"])[1]["tensor-spec"]["shape"] == [-1, -1, -1]


def test_ensemble_is_exported_like_one_model(tmp_path: Path):
    save_ensemble(tmp_path / "both", [saved(tmp_path / "a", 0), saved(tmp_path / "b", 1)])
    out = export_pyfunc(tmp_path / "both", tmp_path / "exported")
    assert describe_model(locate_model(str(out))) == describe_model(tmp_path / "both")


ELSEWHERE = """
import ast, importlib.util, json, pathlib, sys
sys.path.append(sys.argv[1])
assert importlib.util.find_spec("tasks") is None
import mlflow, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[2])
np.savez(sys.argv[4], **model.predict({"image": np.load(sys.argv[3])}))
carried = [file for module in list(sys.modules.values()) if "/code/" in str(file := getattr(module, "__file__", ""))]
nodes = [node for file in carried for node in ast.walk(ast.parse(pathlib.Path(file).read_text()))]
names = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
print(json.dumps(sorted({name.split(".")[0] for name in names} - sys.stdlib_module_names)))
"""


@pytest.mark.slow
def test_exported_model_loads_and_predicts_where_lesionflow_is_not_installed(tmp_path: Path):
    folder, images = saved(tmp_path / "model"), photographs(2)
    out = export_pyfunc(folder, tmp_path / "exported")
    np.save(tmp_path / "images.npy", images)
    packages = sysconfig.get_path("purelib")
    arguments = [packages, out, tmp_path / "images.npy", tmp_path / "answer.npz"]
    done = subprocess.run(  # -S leaves away what installs lesionflow
        [sys.executable, "-I", "-S", "-c", ELSEWHERE, *map(str, arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answer = np.load(tmp_path / "answer.npz")
    for name, expected in predicted(folder, images).items():
        np.testing.assert_allclose(answer[name], expected, rtol=0, atol=1e-6)
    modules = {"cv2": "opencv-python-headless", "skimage": "scikit-image"}
    needed = {modules.get(name, name) for name in json.loads(done.stdout.splitlines()[-1])} - {*CODE, "packaging"}
    assert needed <= {requirement.partition("==")[0] for requirement in requirements()}


OWN = """
import sys
from pathlib import Path
import mlflow, numpy as np, torch
from models.registry import build
from tasks.model_files import load_model, save_model
from tasks.tracking.serving import export_pyfunc
folder, system = Path(sys.argv[1]), build("toy-segmenter", {})
image = {"dtype": "float32", "channels": ["ct"] * 3, "dims": ["y", "x"], "grid": [16, 16]}
save_model(folder, system.name, system.config.model_dump(mode="json"), system.state_dict(), image=image)
images = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype("float32")
served = mlflow.pyfunc.load_model(str(export_pyfunc(folder, folder / "exported"))).predict({"image": images})
expected = load_model(folder).predict_step({"image": torch.from_numpy(images)})
assert served.keys() == expected.keys()
assert all(np.array_equal(served[name], tensor.detach().numpy()) for name, tensor in expected.items())
"""


@pytest.mark.slow
def test_system_of_ones_own_is_exported_and_loaded(tmp_path: Path):
    environment = {**os.environ, "LESIONFLOW_SYSTEMS": "tests.toys.segmenter", "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", OWN, tmp_path / "model"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def server(registered: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The champion under `mlflow models serve`: the address of its server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mlflow = Path(sys.executable).with_name("mlflow")
    address = f"models:/{NAME}@champion"
    command = [mlflow, "models", "serve", "-m", address, "--env-manager", "local", "-p", str(port)]
    log = tmp_path_factory.mktemp("server") / "log"
    with pytest.MonkeyPatch.context() as patch, log.open("w") as opened:
        patch.setenv("MLFLOW_TRACKING_URI", registered["uri"])
        patch.setenv("PATH", f"{mlflow.parent}:/usr/bin:/bin")
        process = subprocess.Popen(command, stdout=opened, stderr=subprocess.STDOUT, cwd=log.parent)
    try:
        wait_until_it_answers(f"http://127.0.0.1:{port}/ping", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        family = [process, *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            member.terminate()
        process.wait()
        psutil.wait_procs(family[1:], timeout=20)


def wait_until_it_answers(address: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(address):
                return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


def ask(server: str, content: object) -> dict[str, np.ndarray]:
    body = json.dumps(content).encode()
    request = urllib.request.Request(f"{server}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        predictions = json.load(answer)["predictions"]
    return {name: np.array(values, np.float32) for name, values in predictions.items()}


@pytest.mark.parametrize("count", [1, 3])
def test_served_model_answers_what_the_model_folder_predicts(server: str, registered: dict[str, str], count: int):
    images = photographs(count, seed=count)
    expected = predicted(Path(registered["folder"]), images)
    for content in ({"inputs": {"image": images.tolist()}}, {"instances": [{"image": i.tolist()} for i in images]}):
        answer = ask(server, content)
        assert answer.keys() == expected.keys() == {"score", "saliency"}
        for name, values in expected.items():
            assert answer[name].shape == values.shape
            np.testing.assert_allclose(answer[name], values, rtol=0, atol=1e-6)


def test_requests_at_the_same_time_do_not_disturb_each_other(server: str, registered: dict[str, str]):
    batches = [photographs(2, seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda images: ask(server, {"inputs": {"image": images.tolist()}}), batches))
    for answer, images in zip(answers, batches, strict=True):
        expected = predicted(Path(registered["folder"]), images)["saliency"]
        np.testing.assert_allclose(answer["saliency"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("images", [np.zeros((1, 3, 16, 16)), np.zeros((3, 32, 32)), np.full((1, 3, 32, 32), 256)])
def test_images_of_another_shape_or_type_are_refused_with_a_reason(server: str, images: np.ndarray):
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(server, {"inputs": {"image": images.astype(int).tolist()}})
    assert refused.value.code == 400
    assert b"shape" in (reason := refused.value.read()) or b"bounds" in reason


def test_model_is_found_by_any_address(registered: dict[str, str], tmp_path: Path):
    exported = export_pyfunc(Path(registered["folder"]), tmp_path / "exported")
    names = [NAME, f"{NAME}/{registered['version']}", f"{NAME}@champion"]
    addresses = [registered["folder"], str(exported), registered["run"], *names, *(f"models:/{name}" for name in names)]
    versions = [describe_model(locate_model(address))["version"] for address in addresses]
    assert versions == [describe_model(Path(registered["folder"]))["version"]] * len(addresses)


def test_registering_a_run_again_makes_no_other_version(registered: dict[str, str], shared_workspace: Workspace):
    with tracked_run("train", {}) as run:
        assert str(register_model(run.client, NAME, registered["run"])) == registered["version"]


def checkpoint(folder: Path, system: torch.nn.Module) -> Path:
    item = {"image": torch.zeros(3, 32, 32), "label": torch.zeros(())}
    trainer = Trainer(max_epochs=1, logger=False, enable_progress_bar=False, default_root_dir=folder, accelerator="cpu")
    trainer.fit(system, DataLoader([item]), DataLoader([item]))
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def test_checkpoint_is_a_model_address(shared_workspace: Workspace, tmp_path: Path):
    system = build(NAME, TINY)
    file = checkpoint(tmp_path, system)
    folder = locate_model(str(file))
    images = torch.from_numpy(photographs(2))
    expected = system.eval().predict_step({"image": images})
    assert torch.equal(load_model(folder).predict_step({"image": images})["score"], expected["score"])
    assert locate_model(str(file)) == folder == locate_weights(str(file))
    assert describe_model(folder)["target"] is None


def test_checkpoint_in_the_folder_of_its_training_knows_its_target(shared_workspace: Workspace, tmp_path: Path):
    job = {"target": "grade", "seed": 3, "snapshot": "S0", "devices": 2}
    (tmp_path / "job.json").write_text(json.dumps(job))
    folder = locate_model(str(checkpoint(tmp_path / "stages" / "training", build(NAME, TINY))))
    assert {key: describe_model(folder).get(key) for key in job} == {**job, "devices": None}


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"hyper_parameters": {"system": NAME}}, [1, 2]])
def test_checkpoint_of_something_else_is_one_clear_line(shared_workspace: Workspace, tmp_path: Path, content: object):
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ModelError, match=r"other\.ckpt is no checkpoint") as error:
        locate_model(str(tmp_path / "other.ckpt"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 torn"])
def test_file_that_is_no_checkpoint_is_one_clear_line(shared_workspace: Workspace, tmp_path: Path, content: bytes):
    file = tmp_path / "torn.ckpt"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"torn\.ckpt cannot be read") as error:
        locate_model(str(file))
    assert "\n" not in str(error.value)


def test_checkpoint_with_weights_of_another_network_is_one_clear_line(shared_workspace: Workspace, tmp_path: Path):
    file = checkpoint(tmp_path, build(NAME, TINY))
    content = torch.load(file, weights_only=True)
    del content["state_dict"]["network.features.0.weight"]
    torch.save(content, file)
    with pytest.raises(ModelError, match="is no checkpoint of a whole system") as error:
        locate_model(str(file))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("address", ["nothing", "nothing/1", "nothing@champion", "models:/nothing", f"{NAME}/99"])
def test_unknown_model_is_one_clear_line(registered: dict[str, str], address: str):
    with pytest.raises(ModelError, match="no model") as error:
        locate_model(address)
    assert "\n" not in str(error.value)


def test_folder_or_run_without_a_model_is_one_clear_line(shared_workspace: Workspace, tmp_path: Path):
    with tracked_run("check", {}) as run:
        pass
    for address in (str(tmp_path), run.run_id):
        with pytest.raises(ModelError, match="holds no model") as error:
            locate_model(address)
        assert "\n" not in str(error.value)

"""Small cohorts with maps, the browser served on loopback, and Chromium to look at it."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from storage.case import Case
from storage.cohort import Cohort
from storage.geometry import plain
from tasks.browser import cohorts
from tasks.workspace import Workspace

PROJECT = Path(__file__).parents[3]
SIDE, FRAME, ITERATIONS = 64, 16, 4
EVIL = "<img src=x onerror=document.title='broken'>&\"'"
SCORES = (3.5, 0.4, 2.6, 1.2, 0.2, 1.9)
GRADES = (3.0, 0.0, 1.0, 2.0, 0.0, np.nan)


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    cohorts._known.cache_clear()


def case_of(number: int, image: np.ndarray, masks: dict[str, np.ndarray] | None, case_id: str, **labels: float) -> Case:
    return Case(
        case_id=case_id,
        patient_id=f"patient {number // 2}",
        split=("train", "validation", "test")[number // 2 % 3],
        file=f"c{number}.png",
        sha256=f"{number:064x}",
        image=image,
        labels=labels,
        masks=masks,
        geometry=plain(image.shape[1:], (0.5,) * (image.ndim - 1)),
    )


def write_photographs(path: Path) -> Cohort:
    """Six pictures of one colour each, three annotated; the map set S of five of them, and `grad_cam` of all."""
    cohort = Cohort.create(
        path,
        grid=(SIDE, SIDE),
        dims=("y", "x"),
        channels=("red", "green", "blue"),
        dtype="uint8",
        lesions=("HE", "MA"),
        labels=("grade",),
    )
    cases = []
    for number, grade in enumerate(GRADES):
        image = np.full((3, SIDE, SIDE), 40 + 30 * number, np.uint8) + np.array([20, 0, -20], np.int8)[:, None, None]
        masks = {"MA": np.zeros((SIDE, SIDE), bool)}
        masks["MA"][10 : 14 + number, 20:30] = True
        name = EVIL if number == 1 else f"eye-{number}"
        known = {} if np.isnan(grade) else {"grade": grade}
        cases.append(case_of(number, image.astype(np.uint8), masks if number < 3 else None, name, **known))
    cohort.append(cases)
    write_refined(cohort, list(range(5)))
    faint = [np.full((SIDE, SIDE), 0.001 * (case + 1), np.float32) for case in range(6)]
    cohort.write_maps("loop/1/grad_cam", range(6), faint, pd.DataFrame({"score": SCORES}), attrs={"model": "1"})
    return cohort


def write_refined(cohort: Cohort, cases: list[int]) -> None:
    """S, which grows from left to right with each iteration; case k is refined k times."""
    steps = np.zeros((len(cases), ITERATIONS + 1, FRAME, FRAME), np.float32)
    scores = np.full((len(cases), ITERATIONS + 1), np.nan, np.float32)
    saliency = np.zeros((len(cases), SIDE, SIDE), np.float32)
    for row, case in enumerate(cases):
        for step in range(case + 1):
            steps[row, step, :, : 3 * (step + 1)] = 1.0
        scores[row, : case + 1] = np.linspace(SCORES[case], 0.5, case + 1) if case else SCORES[case]
        saliency[row] = np.kron(steps[row, case], np.ones((SIDE // FRAME, SIDE // FRAME), np.float32))
    table = pd.DataFrame(
        {
            "score": [SCORES[case] for case in cases],
            "final_score": 0.5,
            "iterations": cases,
            "stop_reason": ["cap" if case == 3 else "score" for case in cases],
        }
    )
    inpainted = np.full((len(cases), 3, SIDE, SIDE), 200, np.uint8)
    arrays = {"scores": scores, "steps": steps, "inpainted": inpainted}
    attrs = {"target": "grade", "stop_score": 1.0, "model": "1", "system": "loop"}
    cohort.write_maps("loop/1/S", cases, saliency, table, arrays, attrs)


def write_volumes(path: Path) -> Cohort:
    """Two PET volumes of differing shape, one annotated and with a map."""
    cohort = Cohort.create(
        path,
        grid=None,
        dims=("z", "y", "x"),
        channels=("CT", "PET"),
        dtype="float32",
        lesions=("GTV",),
        labels=("grade",),
    )
    rng, cases = np.random.default_rng(0), []
    for number, shape in enumerate([(7, 20, 16), (6, 18, 24)]):
        mask = np.zeros(shape, bool)
        mask[3, 5:9, 4:8] = True
        image = rng.gamma(1, 2, (2, *shape)).astype(np.float32)
        cases.append(case_of(number, image, None if number else {"GTV": mask}, f"scan-{number}", grade=1.0))
    cohort.append(cases)
    saliency = [rng.random((7, 20, 16), np.float32)]
    cohort.write_maps("cam/1", [0], saliency, pd.DataFrame({"score": [0.5]}), attrs={"target": "grade"})
    return cohort


@pytest.fixture
def photographs(tmp_path: Path) -> Cohort:
    return write_photographs(tmp_path / "photographs")


@pytest.fixture
def volumes(tmp_path: Path) -> Cohort:
    return write_volumes(tmp_path / "volumes")


@pytest.fixture
def client(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A client of the application, without a socket, that shows some cohorts."""
    from fastapi.testclient import TestClient

    from tasks.browser.app import create_app

    def of(*shown: Cohort) -> TestClient:
        monkeypatch.setenv(cohorts.VARIABLE, os.pathsep.join(cohort.path for cohort in shown))
        return TestClient(create_app(), base_url="http://127.0.0.1")

    return of


@pytest.fixture
def serve(workspace: Workspace) -> Iterator[Callable[..., str]]:
    """The browser as a process of its own on loopback; its address."""
    started: list[subprocess.Popen[bytes]] = []

    def of(*shown: Cohort) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        command = [sys.executable, "-m", "uvicorn", "--factory", "tasks.browser.app:create_app"]
        environment = {**os.environ, cohorts.VARIABLE: os.pathsep.join(cohort.path for cohort in shown)}
        started.append(
            subprocess.Popen([*command, "--port", str(port), "--log-level", "error"], cwd=PROJECT, env=environment)
        )
        return _answering(f"http://127.0.0.1:{port}")

    yield of
    for server in started:
        server.terminate()
        server.wait(20)


def _answering(address: str) -> str:
    for _ in range(300):
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return address
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(address)


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A fresh tab, in which an error of a script fails the test."""
    errors: list[str] = []
    context = chromium.new_context(viewport={"width": 1200, "height": 800})
    tab = context.new_page()
    tab.on("pageerror", lambda error: errors.append(str(error)))
    yield tab
    context.close()
    assert not errors

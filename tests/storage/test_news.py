"""Whether a source brings anything new, told without decoding."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from storage.ingestion import begin, brings_news, ingest
from storage.sources import open_source

OPTIONS = {"size": 32, "file_column": "image", "label": {"grade": "grade"}}


def photograph(folder: Path, name: str, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(60, 200, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f"{name}.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(6):
        photograph(folder, f"p{seed}", seed)
    write_labels(folder, {f"p{seed}": seed % 3 for seed in range(6)})
    return folder


def write_labels(folder: Path, grades: dict[str, int]) -> None:
    rows = {"image": [f"{name}.png" for name in grades], "grade": list(grades.values())}
    pd.DataFrame(rows).to_csv(folder.parent / "labels.csv", index=False)


def news(folder: Path) -> bool:
    source = open_source(str(folder), labels=str(folder.parent / "labels.csv"), **OPTIONS)
    return brings_news(begin(source, folder.parent / "cohort"))


def take_in(folder: Path) -> None:
    source = open_source(str(folder), labels=str(folder.parent / "labels.csv"), **OPTIONS)
    ingest(source, folder.parent / "cohort")


def test_everything_is_news_where_there_is_no_cohort_and_nothing_after_ingestion(photos: Path):
    assert news(photos)
    take_in(photos)
    assert not news(photos)


def test_a_new_file_and_a_corrected_label_are_news_until_they_are_taken_in(photos: Path):
    take_in(photos)
    photograph(photos, "p6", 6)
    write_labels(photos, {f"p{seed}": seed % 3 for seed in range(7)})
    assert news(photos)
    take_in(photos)
    assert not news(photos)
    write_labels(photos, {f"p{seed}": 2 for seed in range(7)})
    assert news(photos)
    take_in(photos)
    assert not news(photos)


def test_a_touched_file_is_looked_at_once_and_a_second_copy_never(photos: Path):
    take_in(photos)
    os.utime(photos / "p0.png", (1, 1))
    assert news(photos)
    take_in(photos)
    assert not news(photos)
    (photos / "copy.png").write_bytes((photos / "p1.png").read_bytes())
    write_labels(photos, {**{f"p{seed}": seed % 3 for seed in range(6)}, "copy": 1})
    assert not news(photos)


def test_a_broken_file_is_news_until_it_is_mended(photos: Path):
    (photos / "p5.png").write_bytes(b"no picture")
    take_in(photos)
    assert news(photos)
    photograph(photos, "p5", 5)
    take_in(photos)
    assert not news(photos)


def test_a_simulated_source_brings_news_where_it_is_larger(tmp_path: Path):
    small, large = (open_source(f"sim:fundus?cases={count}&size=32&seed=1") for count in (4, 6))
    ingest(small, tmp_path / "cohort")
    assert not brings_news(begin(small, tmp_path / "cohort"))
    assert brings_news(begin(large, tmp_path / "cohort"))

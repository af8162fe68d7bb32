import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from storage.case import Case
from storage.cohort import Cohort
from storage.geometry import Geometry, Grid
from tasks.training.figures import (
    counted_on,
    logged_curves,
    outcome_figure,
    outcome_kind,
    pace_curves,
    panels_of,
)
from tasks.training.samples import Sample, common_scale, read_sample, sample_figure, samples_by_epoch

CASES = 3


def epoch(number: int, stage: str = "training", **values: Any) -> dict[str, Any]:
    line = {"stage": stage, "epoch": number, "step": number + 1, "seconds": 1.0, "images_per_second": 90.0}
    return {**line, "waiting": 0.1, "learning_rate": 0.01, **values}


def drawn_panels(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}


def made_cohort(path: Path, grid: tuple[int, ...], channels: tuple[str, ...], dtype: str) -> Cohort:
    dims = ("z", "y", "x")[-len(grid) :]
    cohort = Cohort.create(
        path, grid=grid, dims=dims, channels=channels, dtype=dtype, lesions=("L",), labels=("grade",)
    )
    lesion = np.zeros(grid, bool)
    lesion[(2,) * len(grid)] = True
    noise = np.random.default_rng(0)
    cohort.append(
        [
            Case(
                case_id=f"c{number}",
                patient_id=f"p{number}",
                file=f"c{number}",
                sha256=f"{number:064x}",
                image=noise.integers(0, 200, (len(channels), *grid)).astype(dtype),
                labels={"grade": float(number)},
                masks={"L": lesion},
                geometry=Geometry(Grid(grid, (2.0, *(1.0,) * (len(grid) - 1)))),
            )
            for number in range(CASES)
        ]
    )
    return cohort


def sample_of(cohort: Cohort, number: int = 0, **answers: np.ndarray) -> Sample:
    images = cohort.images(range(CASES))
    score = np.array([0.1, 1.2, np.nan])
    return Sample("training", number, np.arange(CASES), np.array([0, 1, np.nan]), score, images, answers)


@pytest.fixture
def pictures(tmp_path: Path) -> Cohort:
    return made_cohort(tmp_path / "c", (12, 12), ("red", "green", "blue"), "uint8")


def tile(figure: Figure, row: int, column: int) -> np.ndarray:
    columns = figure.axes[0].get_gridspec().ncols
    return np.asarray(figure.axes[row * columns + column].images[0].get_array())


def test_losses_share_a_panel_and_other_values_have_one_of_their_own_with_their_twin():
    line = epoch(
        0, **{"train/loss": 1.0, "val/loss": 1.0, "train/loss_generator": 1.0, "val/auc": 0.5, "train/auc": 0.4}
    )
    assert panels_of(pd.DataFrame([line])) == {
        "loss": ["train/loss", "train/loss_generator", "val/loss"],
        "auc": ["train/auc", "val/auc"],
    }


def test_losses_are_logarithmic_only_where_all_are_positive():
    positive = [epoch(number, **{"train/loss": 1.0 + number, "val/loss": 2.0}) for number in range(3)]
    signed = [epoch(number, "adversarial", **{"train/loss": 1.0 - number}) for number in range(3)]
    panels = drawn_panels(logged_curves([*positive, *signed], best=signed[-1]))
    assert panels["training: loss"].get_yscale() == "log"
    assert panels["adversarial: loss"].get_yscale() == "linear"


def test_stages_stand_side_by_side_and_the_kept_epoch_is_marked_in_its_own():
    first = [epoch(number, "autoencoder", **{"val/loss": 1.0}) for number in range(4)]
    second = [epoch(number, "adversarial", **{"train/critic": -1.0, "val/distance": 2.0}) for number in range(2)]
    figure = logged_curves([*first, *second], best=second[1])
    panels = drawn_panels(figure)
    assert set(panels) == {"autoencoder: loss", "adversarial: critic", "adversarial: distance"}
    assert len(panels["autoencoder: loss"].lines) == 1
    assert list(panels["adversarial: critic"].lines[-1].get_xdata()) == [1, 1]


def test_epochs_count_on_over_stages():
    lines = [epoch(0, "a"), epoch(1, "a"), epoch(0, "b"), epoch(1, "b"), epoch(0, "c")]
    assert counted_on(lines) == [0, 1, 2, 3, 4]
    waiting = pace_curves(lines).axes[2]
    assert [line.get_xdata()[0] for line in waiting.lines] == [0, 2, 1.5, 4, 3.5]


def test_curves_of_one_epoch_and_of_values_that_are_no_numbers_are_drawn():
    lines = [epoch(0, **{"train/loss": float("nan"), "val/kappa": None})]
    logged_curves(lines, best=lines[0]).savefig(Path("/dev/null"), format="png")
    logged_curves([epoch(0)], best={}).savefig(Path("/dev/null"), format="png")


@pytest.mark.parametrize(
    ("labels", "scores", "kind"),
    [
        ([0, 1, 1], [0.2, 0.9, 1.0], "probability"),
        ([0, 1, 1], [0.2, 0.9, 1.1], "grades"),
        ([0, 4, 2], [0.2, 0.9, 1.0], "grades"),
        ([3, 12, 4], [0.0, 0.0, 0.0], "grades"),
        ([3, 13, 4], [0.0, 0.0, 0.0], "number"),
        ([0.5, 1], [0.0, 0.0], "number"),
    ],
)
def test_kind_of_the_labels(labels: list[float], scores: list[float], kind: str):
    assert outcome_kind(np.array(labels, float), np.array(scores)) == kind


def test_confusion_shows_counts_and_shares_of_clipped_rounded_scores():
    labels, scores = np.array([1.0, 1, 1, 3, 3]), np.array([-7.0, 1.4, 1.6, 2.9, 9.0])
    confusion = outcome_figure(labels, scores).axes[0]
    expected = confusion_matrix([1, 1, 1, 3, 3], [1, 1, 2, 3, 3], labels=[1, 2, 3])
    np.testing.assert_allclose(confusion.images[0].get_array(), expected / np.array([[3], [1], [2]]))
    assert [text.get_text() for text in confusion.texts] == ["2\n67%", "1\n33%", "0", "0", "0", "2\n100%"]
    assert [label.get_text() for label in confusion.get_yticklabels()] == ["1 (n=3)", "2 (n=0)", "3 (n=2)"]


def test_confusion_has_rows_for_grades_that_these_cases_lack():
    confusion = outcome_figure(np.array([0.0, 1]), np.array([0.1, 3.7]), known=np.arange(5.0)).axes[0]
    assert confusion.images[0].get_array().shape == (5, 5)
    assert [text.get_text() for text in confusion.texts[5:]] == ["0", "0", "0", "0", "1\n100%"]


def test_reliability_has_wilsons_intervals_and_the_brier_score():
    labels, scores = np.array([0.0, 0, 0, 1, 1, 1]), np.array([0.31, 0.33, 0.35, 0.37, 0.91, 1.0])
    reliability = outcome_figure(labels, scores).axes[0]
    low, high = reliability.lines[0].get_ydata()
    n, p, z = 4, 0.25, 1.959963984540054
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    np.testing.assert_allclose([low, high], [(centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)])
    assert f"{np.mean((labels - scores) ** 2):.3f}" in reliability.get_title()


def test_agreement_of_numbers_gives_intercept_and_slope():
    scores = np.linspace(-3, 5, 30)
    agreement = outcome_figure(2.5 - 0.5 * scores, scores).axes[0]
    assert agreement.get_legend().get_texts()[1].get_text() == "true = 2.5 − 0.5 · score"


@settings(max_examples=12, deadline=None)
@given(
    pairs=st.lists(
        st.tuples(
            st.one_of(st.integers(-3, 12), st.floats(-1e3, 1e3)), st.one_of(st.floats(0, 1), st.floats(-1e6, 1e6))
        ),
        min_size=1,
        max_size=12,
    )
)
def test_any_finite_labels_and_scores_are_drawn_without_a_warning(pairs: list[tuple[float, float]]):
    labels, scores = np.array(pairs, float).T
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcome_figure(labels, scores).savefig(Path("/dev/null"), format="png", dpi=20)


def test_maps_share_one_scale_so_that_a_weak_one_stays_weak(pictures: Cohort):
    strength = np.array([0.0, 0.1, 1.0]).reshape(CASES, 1, 1)
    maps = strength * np.ones((CASES, 12, 12))
    figure = samples_by_epoch([sample_of(pictures, saliency=maps)], "saliency", pictures)
    heat = [np.abs(tile(figure, row, 1) - pictures.image(row).mean(axis=0)[..., None]) for row in range(CASES)]
    assert heat[0].max() < 1, "a map of zeros is clear"
    assert heat[1].max() <= 0.2 * 0.8 * 255, "a tenth of full heat"
    assert tile(figure, 2, 1).min() >= 0.8 * 255, "full heat"


def test_one_wild_epoch_does_not_pale_the_others(pictures: Cohort):
    samples = [sample_of(pictures, number, saliency=np.full((CASES, 12, 12), 0.2)) for number in range(4)]
    wild = sample_of(pictures, 4, saliency=np.full((CASES, 12, 12), 50.0))
    assert common_scale([*samples, wild], "saliency") == pytest.approx(0.2)
    assert common_scale([sample_of(pictures, saliency=np.zeros((CASES, 12, 12)))], "saliency") == 1.0


def test_pictures_are_shown_in_their_own_colours_with_true_lesions_outlined(pictures: Cohort):
    sample = sample_of(pictures, predicted_image=pictures.images(range(CASES)))
    figure = sample_figure(sample, pictures)
    shown, answered = tile(figure, 1, 0), tile(figure, 1, 1)
    np.testing.assert_array_equal(answered, pictures.image(1).transpose(1, 2, 0))
    around = np.zeros((12, 12), bool)
    around[1:4, 1:4] = True
    around[2, 2] = False
    np.testing.assert_array_equal((shown != answered).any(axis=-1), around)


def test_volumes_are_shown_in_the_slice_of_the_lesion_and_pet_as_projections(tmp_path: Path):
    for channel, expected in (("CT", (12, 14)), ("PET", (6, 14))):
        cohort = made_cohort(tmp_path / channel, (6, 12, 14), (channel,), "float32")
        sample = sample_of(cohort, saliency=np.random.default_rng(1).random((CASES, 6, 12, 14)))
        figure = sample_figure(sample, cohort)
        assert tile(figure, 0, 1).shape == (*expected, 3)
        assert figure.axes[0].get_aspect() == (2.0 if channel == "PET" else 1.0)


def test_file_of_a_sample_is_read_as_far_as_it_fits(tmp_path: Path):
    image = np.zeros((2, 1, 8, 8), np.float32)
    arrays = {"mask": np.ones((2, 3, 8, 8)), "saliency": np.ones((2, 4, 4)), "predicted_image": np.ones((2, 3, 8, 8))}
    np.savez(tmp_path / "first-stage-0012.npz", case=[4, 5], image=image, **arrays)
    sample = read_sample(tmp_path / "first-stage-0012.npz")
    assert sample is not None
    assert (sample.stage, sample.epoch) == ("first-stage", 12)
    assert {name: answer.shape for name, answer in sample.answers.items()} == {
        "mask": (2, 8, 8),
        "predicted_image": (2, 3, 8, 8),
    }
    assert np.isnan([*sample.score, *sample.label]).all()
    assert read_sample(tmp_path / "gone-0000.npz") is None

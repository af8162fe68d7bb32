"""The pages as a person sees them: a headless Chromium, on the server and on exported files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from storage.cohort import Cohort
from storage.ingestion import ingest
from storage.sources.listing import Listed
from tasks.browser.site import export_site
from tasks.reuse import remember

from .conftest import EVIL, case_of

Serve = Callable[..., str]
CARDS = "[...document.querySelectorAll('.card')].sort((a, b) => a.dataset.place - b.dataset.place)"
MANY = 100_000


@pytest.fixture(params=["server", pytest.param("files", marks=pytest.mark.slow)])
def site(request: pytest.FixtureRequest, serve: Serve, photographs: Cohort, tmp_path: Path) -> str:
    """Where the cohort's pages are, served and as files."""
    if request.param == "server":
        return serve(photographs) + "/photographs"
    export_site(photographs, tmp_path / "out", range(6), photographs.map_names())
    return (tmp_path / "out").as_uri()


def ids(page: Any) -> list[str]:
    """The case ids of the cards in sight, in order."""
    return list(page.evaluate(CARDS + ".map(card => card.querySelector('.id').textContent)"))


def choose(page: Any, name: str, text: str) -> None:
    """The option that begins with `text`."""
    values = page.eval_on_selector_all(
        f"select[name={name}] option",
        "(all, text) => all.filter(o => o.textContent.startsWith(text)).map(o => o.value)",
        text,
    )
    page.select_option(f"select[name={name}]", values[0])


def until(page: Any, statement: str) -> None:
    """Wait for a statement to be true; Playwright's own way needs `eval`, which the pages forbid."""
    for _ in range(600):
        if page.evaluate(statement):
            return
        page.wait_for_timeout(50)
    raise TimeoutError(statement)


def settle(page: Any) -> None:
    """Wait for the pictures that are to be seen."""
    until(page, "[...document.images].every(image => image.hidden || !image.src || image.complete)")


def look(page: Any) -> bytes:
    """What the picture of the case looks like."""
    settle(page)
    return bytes(page.locator(".stack").screenshot(animations="disabled"))


def test_the_grid_shows_a_card_a_case_with_its_picture(page: Any, site: str):
    page.goto(site + "/index.html")
    assert ids(page) == ["eye-0", EVIL, *(f"eye-{n}" for n in range(2, 6))]
    until(page, CARDS + ".every(card => card.querySelector('img').naturalWidth === 64)")
    first = page.locator(".card").first.inner_text()
    for said in ("grade 3", "score 3.5", "score · 0 it.", "load –"):
        assert said in first


def test_filters_and_orders_change_what_is_shown_and_the_address(page: Any, site: str):
    page.goto(site + "/index.html")
    choose(page, "sort", "Score")
    assert ids(page) == ["eye-0", "eye-2", "eye-3", EVIL, "eye-4", "eye-5"]  # the last has no score from S
    page.click("#direction")
    assert ids(page) == ["eye-4", EVIL, "eye-3", "eye-2", "eye-0", "eye-5"]
    choose(page, "set", "grad_cam")
    assert ids(page) == ["eye-4", EVIL, "eye-3", "eye-5", "eye-2", "eye-0"]
    choose(page, "set", "S")
    choose(page, "sort", "|label − score|")
    assert ids(page)[:2] == ["eye-2", "eye-3"]
    choose(page, "stop", "cap")
    assert ids(page) == ["eye-3"]
    page.click("#clear")
    choose(page, "label", "0 ")
    assert ids(page) == [EVIL, "eye-4"]
    choose(page, "truth", "annotated")
    assert ids(page) == [EVIL]
    assert page.inner_text("#shown") == "1"
    page.goto(page.url + "&again=1")
    page.reload()
    assert ids(page) == [EVIL]
    page.click("#clear")
    page.fill("input[name=q]", "PATIENT 2")
    until(page, "document.getElementById('shown').textContent === '2'")
    assert sorted(ids(page)) == ["eye-4", "eye-5"]
    page.fill("input[name=q]", "nothing like that")
    page.wait_for_selector("#none:not([hidden])")


def test_keys_walk_the_grid_and_open_a_case(page: Any, site: str):
    page.goto(site + "/index.html")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_url("**/cases/1.html*")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/cases/2.html*")
    page.keyboard.press("Escape")
    page.wait_for_url("**/index.html*")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "q"


def test_the_slider_moves_the_overlay_and_the_marker(page: Any, site: str):
    page.goto(site + "/cases/3.html")
    marker = page.locator(".path .marker")
    last, place = look(page), marker.get_attribute("cx")
    assert page.inner_text("#at") == "3 / 3"
    seen = [last]
    for step in (2, 1, 0):
        page.keyboard.press(",")
        page.wait_for_selector(f"canvas.steps[data-step='{step}']")
        seen.append(look(page))
        assert marker.get_attribute("data-step") == str(step)
        assert float(marker.get_attribute("cx")) < float(place)
    assert len(set(seen)) == 4
    page.locator(".path .point").last.click()
    assert look(page) == last
    assert "step" not in page.url


def test_map_truth_and_inpainting_can_be_switched(page: Any, site: str):
    page.goto(site + "/cases/2.html")
    seen = [look(page)]
    for key in "gtmi":
        page.keyboard.press(key)
        seen.append(look(page))
    assert len(set(seen)) == 5
    assert page.locator("input[name=truth][value='0']").is_disabled()  # no HE in this case
    page.fill("input[name=opacity]", "10")
    page.keyboard.press("m")
    assert look(page) not in seen
    page.click("#next")
    assert page.input_value("input[name=opacity]") == "10"  # the next case is looked at in the same way


def test_a_set_without_steps_shows_its_map_alone(page: Any, site: str):
    page.goto(site + "/cases/3.html#set=grad_cam")
    assert page.locator(".steps-row").is_hidden()
    assert page.locator("img.whole").is_visible()
    page.goto(site + "/cases/5.html")  # which has no map in S
    assert page.input_value("select[name=set]") == "grad_cam"


def test_markup_in_a_case_id_is_only_text(page: Any, site: str):
    for name in ("index.html", "cases/1.html", "cases/0.html"):
        page.goto(f"{site}/{name}")
        settle(page)
        assert page.title() != "broken"
        assert page.locator("img[src='x']").count() == 0
    page.goto(site + "/cases/1.html")
    assert EVIL in page.inner_text("h1")


def test_a_lesion_of_the_table_is_shown_in_the_picture(page: Any, serve: Serve, photographs: Cohort, tmp_path: Path):
    row = {"case_id": "eye-0", "lesion": 1, "lesion_class": "found", "n_pixels": 4, "units": "mm"}
    table = pd.DataFrame([{**row, "centroid_y": 15.5, "centroid_x": 47.5}])
    table.attrs = {"snapshot": photographs.snapshot}
    table.to_parquet(tmp_path / "found.parquet")
    remember("radiomics", "1", {"regions": "loop/1/S"}, [tmp_path / "found.parquet"])
    page.goto(serve(photographs) + "/photographs/cases/0.html")
    page.click("details:visible summary")
    page.hover("tr[data-y]")
    ring, picture = page.locator(".ring").bounding_box(), page.locator(".stack").bounding_box()
    assert ring["x"] + ring["width"] / 2 == pytest.approx(picture["x"] + 0.75 * picture["width"], abs=2)
    assert ring["y"] + ring["height"] / 2 == pytest.approx(picture["y"] + 0.25 * picture["height"], abs=2)


def test_the_slices_of_a_volume_follow_the_slider(page: Any, serve: Serve, volumes: Cohort):
    page.goto(serve(volumes) + "/volumes/cases/0.html")
    axial = page.locator(".plane").first
    outline = axial.locator("img.truth")
    assert outline.is_visible()  # the middle slice, where the lesion is
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.keyboard.press(".")
    settle(page)
    assert axial.locator("output").inner_text() == "5"
    assert not outline.is_visible()
    assert [url.split("/")[-1].split("?")[0] for url in asked] == ["axial-4-channel-1.jpg", "axial-4.png"]
    page.select_option("select[name=channel]", label="CT")
    settle(page)
    assert any("mip-2-channel-0.jpg" in url for url in asked)


def test_a_new_snapshot_is_seen_at_the_next_request(page: Any, serve: Serve, photographs: Cohort):
    address = serve(photographs) + "/photographs/index.html"
    page.goto(address)
    assert page.inner_text("#total") == "6"
    photographs.append([case_of(6, np.zeros((3, 64, 64), np.uint8), None, "eye-6")])
    page.goto(address)
    assert "eye-6" in ids(page)


class ManyCases:
    """A source of tiny pictures."""

    name, address, grid, dims = "many", "many", (8, 8), ("y", "x")
    channels, labels, lesions = ("grey",), ("grade",), ("spot",)

    def listing(self) -> list[Listed]:
        return [Listed(f"{n}.png", f"c{n}", f"p{n // 2}", {"grade": n % 5}) for n in range(MANY)]

    def sha256(self, key: Listed) -> str:
        return f"{int(key.case_id[1:]):064x}"

    def read(self, key: Listed) -> Any:
        number = int(key.case_id[1:])
        case = case_of(number, np.full((1, 8, 8), number % 256, np.uint8), None, key.case_id, **dict(key.labels))
        return case.__class__(**{**vars(case), "file": key.file, "patient_id": key.patient_id, "split": None})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_cases_are_filtered_sorted_and_scrolled(page: Any, serve: Serve, tmp_path: Path):
    ingest(ManyCases(), tmp_path / "many")  # type: ignore[arg-type]
    cohort = Cohort.open(tmp_path / "many")
    score = (np.arange(MANY) * 7919 % MANY / MANY).round(5)
    table = pd.DataFrame({"score": score, "iterations": np.arange(MANY) % 11, "stop_reason": "score"})
    for start in range(0, MANY, 25_000):
        cases = range(start, start + 25_000)
        cohort.write_maps(
            "m/1/S", cases, np.zeros((25_000, 8, 8), np.float32), table.iloc[cases], attrs={"target": "grade"}
        )
    page.goto(serve(cohort) + "/many/index.html", timeout=120_000)
    assert page.inner_text("#total") == "100,000"
    assert page.evaluate("performance.getEntriesByName(new URL('cases.js', location))[0].decodedBodySize") < 8e6
    assert page.locator(".card").count() < 100
    choose(page, "sort", "Score")
    assert ids(page)[0] == f"c{int(score.argmax())}"
    page.fill("input[name=q]", "c9999")
    until(page, "document.getElementById('shown').textContent === '11'")
    page.fill("input[name=q]", "")
    until(page, "document.getElementById('shown').textContent === '100,000'")
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    until(page, CARDS + f".at(-1).dataset.place === '{MANY - 1}'")
    until(page, CARDS + ".at(-1).querySelector('img').naturalWidth === 8")
    assert page.locator(".card").count() < 100

"""What the server answers: pages, tables, pictures, and refusals."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from storage.cohort import Cohort
from tasks.browser.app import create_app
from tasks.browser.pictures import heat
from tasks.reuse import remember
from tasks.workspace import Workspace
from tests.damage import files_in, flip

from .conftest import EVIL, GRADES, SCORES, SIDE, write_photographs

Client = Callable[..., Any]


def cases_of(text: str) -> dict[str, Any]:
    start, end = "window.CASES = ", ";\n"
    assert text.startswith(start)
    assert text.endswith(end)
    return json.loads(text[len(start) : -len(end)])


def pixels(answer: Any) -> np.ndarray:
    assert answer.status_code == 200
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))


def test_the_overview_names_each_cohort_with_its_numbers(client: Client, photographs: Cohort, volumes: Cohort):
    page = client(photographs, volumes).get("/").text
    for said in ("photographs/index.html", "volumes/index.html", "grad_cam", photographs.snapshot, "grade", "HE, MA"):
        assert said in page


def test_cohorts_that_records_name_are_found_and_others_are_not(
    client: Client, photographs: Cohort, tmp_path: Path, workspace: Workspace
):
    told = write_photographs(tmp_path / "elsewhere" / "photographs")
    remember("evaluate", "1", {"cohort": told.path})
    remember("evaluate", "2", {"cohort": str(tmp_path / "gone")})
    page = client(photographs).get("/").text
    assert page.count('class="cohort"') == 2
    assert page.count("photographs-") == 4  # both are marked: slug and title
    assert "gone" not in page


def test_the_table_holds_every_column_once(client: Client, photographs: Cohort):
    answer = client(photographs).get("/photographs/cases.js")
    table = cases_of(answer.text)
    column = table["columns"]
    refined, plain = table["sets"]
    assert table["ids"] == ["eye-0", EVIL, *(f"eye-{n}" for n in range(2, 6))]
    assert column[table["labels"][0]["values"]] == [None if np.isnan(grade) else grade for grade in GRADES]
    assert column[plain["score"]] == list(SCORES)
    assert column[refined["score"]] == [*SCORES[:5], None]
    assert column[refined["iterations"]] == [0, 1, 2, 3, 4, None]
    assert [refined["stop"]["names"][code] for code in refined["stop"]["codes"][:5]] == ["score"] * 3 + ["cap", "score"]
    assert refined["stop"]["codes"][5] == -1
    assert table["truth"] == [1, 1, 1, 0, 0, 0]
    assert len({json.dumps(values) for values in column}) == len(column)


def test_the_table_is_packed_and_kept_until_the_snapshot_changes(client: Client, photographs: Cohort):
    browser = client(photographs)
    first = browser.get("/photographs/cases.js", headers={"Accept-Encoding": "gzip"})
    assert first.headers["content-encoding"] == "gzip"
    plain = browser.get("/photographs/cases.js", headers={"Accept-Encoding": "identity"})
    assert plain.text == first.text
    assert len(gzip.compress(plain.content)) < len(plain.content)
    again = browser.get("/photographs/cases.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    photographs.write_maps("new", [0], [np.ones((SIDE, SIDE), np.float32)], pd.DataFrame({"score": [0.5]}))
    changed = browser.get("/photographs/cases.js", headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200
    assert "new" in [one["name"] for one in cases_of(changed.text)["sets"]]


def test_lesion_load_comes_from_the_radiomics_of_the_set(client: Client, photographs: Cohort, tmp_path: Path):
    rows = [("eye-0", 0, "all", 410), ("eye-0", 1, "found", 400), ("eye-0", 2, "found", 10), ("eye-2", 0, "all", 0)]
    table = pd.DataFrame(rows, columns=["case_id", "lesion", "lesion_class", "n_pixels"])
    table = table.assign(units="mm", area=table["n_pixels"] * 0.25, centroid_y=10.0, centroid_x=20.0)
    table.attrs = {"snapshot": photographs.snapshot}
    table.to_parquet(tmp_path / "found.parquet")
    answer = {"regions": "loop/1/S", "threshold": 0.25, "file": "found.parquet"}
    remember("radiomics", "1", answer, [tmp_path / "found.parquet"])
    browser = client(photographs)
    listed = cases_of(browser.get("/photographs/cases.js").text)
    load = listed["columns"][listed["sets"][0]["load"]]
    assert load == [round(410 / SIDE**2, 5), None, 0, None, None, None]
    page = browser.get("/photographs/cases/0.html").text
    assert "2 lesions, where the map is at least 0.25" in page
    assert page.index(">400<") < page.index(">10<")  # the largest first
    assert "Found lesions" not in browser.get("/photographs/cases/3.html").text


def test_radiomics_of_another_cohort_are_left_alone(client: Client, photographs: Cohort, tmp_path: Path):
    table = pd.DataFrame({"case_id": ["eye-0"], "lesion": [0], "n_pixels": [9]})
    table.attrs = {"snapshot": "ANOTHER"}
    table.to_parquet(tmp_path / "found.parquet")
    remember("radiomics", "1", {"regions": "loop/1/S"}, [tmp_path / "found.parquet"])
    assert cases_of(client(photographs).get("/photographs/cases.js").text)["sets"][0]["load"] is None


def test_pictures_of_the_snapshot_are_kept_for_good_and_others_are_not(client: Client, photographs: Cohort):
    browser = client(photographs)
    page = browser.get("/photographs/index.html").text
    assert f'data-version="?v={photographs.snapshot}"' in page
    kept = browser.get(f"/photographs/thumbnails/0.jpg?v={photographs.snapshot}")
    assert "immutable" in kept.headers["cache-control"]
    for version in ("", "?v=ANOTHER", "?v=../../etc"):
        assert browser.get(f"/photographs/thumbnails/0.jpg{version}").headers["cache-control"] == "no-store"


def test_a_thumbnail_shows_the_pixels_of_its_case(client: Client, photographs: Cohort):
    browser = client(photographs)
    for case in range(6):
        shown = pixels(browser.get(f"/photographs/thumbnails/{case}.jpg"))
        assert shown.shape == (SIDE, SIDE, 4)
        assert abs(float(shown[..., :3].mean()) - (40 + 30 * case)) < 2


def test_one_scale_serves_all_cases_of_a_set(client: Client, photographs: Cohort):
    browser = client(photographs)
    alpha = [pixels(browser.get(f"/photographs/maps/grad_cam/{case}/image.png"))[..., 3].mean() for case in range(6)]
    assert alpha[0] < alpha[1] < alpha[2]  # 0.001 · (case + 1): the faint stays faint
    assert alpha[0] < 100 < alpha[5] == 255


def test_what_is_zero_or_below_is_clear():
    shown = np.asarray(Image.open(io.BytesIO(heat(np.array([[-1, 0, 0.5, 1, 9]]), 1.0))).convert("RGBA"))[0]
    assert shown[:, 3].tolist() == [0, 0, 255, 255, 255]
    assert shown[3].tolist() == shown[4].tolist() == [255, 255, 255, 255]


def test_the_strip_holds_a_frame_for_each_iteration_of_the_case(client: Client, photographs: Cohort):
    browser = client(photographs)
    for case in range(5):
        frames = pixels(browser.get(f"/photographs/maps/S/{case}/steps.png")).reshape(-1, 16, 16, 4)
        covered = [(frame[..., 3] > 0).mean() for frame in frames]
        assert covered == [3 * (step + 1) / 16 for step in range(case + 1)]


def test_outlines_are_drawn_around_the_truth_in_the_colour_of_the_class(client: Client, photographs: Cohort):
    shown = pixels(client(photographs).get("/photographs/pictures/0/image-lesion-1.png"))
    factor = len(shown) // SIDE
    line = shown[..., 3] > 0
    assert {tuple(colour) for colour in shown[line][:, :3].tolist()} == {(255, 225, 77)}
    assert not line[10 * factor : 14 * factor, 20 * factor : 30 * factor].any()
    assert line[10 * factor - 1, 25 * factor]
    assert not line[: 10 * factor - 2].any()


def test_a_volume_has_slices_and_three_projections(client: Client, volumes: Cohort):
    browser = client(volumes)
    assert pixels(browser.get("/volumes/thumbnails/0.jpg")).shape[:2] == (7, 16)  # PET: the coronal projection
    for name, shape in (("axial-3", (20, 16)), ("mip-0", (20, 16)), ("mip-1", (7, 16)), ("mip-2", (7, 20))):
        for channel in (0, 1):
            assert pixels(browser.get(f"/volumes/pictures/0/{name}-channel-{channel}.jpg")).shape[:2] == shape
        assert pixels(browser.get(f"/volumes/maps/1/0/{name}.png")).shape[:2] == shape
    assert pixels(browser.get("/volumes/pictures/0/axial-3-lesion-0.png"))[..., 3].any()
    page = browser.get("/volumes/cases/0.html").text
    assert page.count('class="plane"') == 4
    marked = json.loads(page.split('id="viewer">')[1].split("</script>")[0])["marked"]
    assert marked == {"0": ["mip-0", "mip-1", "mip-2", "axial-3"]}


@pytest.mark.parametrize(
    "address",
    [
        "/photographs/cases/6.html",
        "/photographs/cases/-1.html",
        "/photographs/cases/0x1.html",
        "/photographs/cases/%D9%A3.html",
        "/photographs/cases/99999999999999999999999.html",
        "/photographs/thumbnails/6.jpg",
        "/photographs/pictures/0/image-channel-0.jpg",
        "/photographs/pictures/0/axial-0.jpg",
        "/photographs/pictures/0/image-lesion-2.png",
        "/photographs/pictures/0/..%2f..%2fsecret.jpg",
        "/photographs/maps/S/5/image.png",
        "/photographs/maps/nix/0/image.png",
        "/photographs/static/..%2fapp.py",
        "/static/app.py",
        "/nix/index.html",
        "/nix/cases.js",
        "/..%2f..%2fetc/passwd",
        "/%3Cscript%3E/index.html",
    ],
)
def test_what_is_not_there_is_told_and_nothing_else(client: Client, photographs: Cohort, address: str):
    answer = client(photographs).get(address)
    assert answer.status_code == 404
    assert "Not found" in answer.text
    assert "<script" not in answer.text


def test_case_ids_are_escaped_on_every_page(client: Client, photographs: Cohort):
    browser = client(photographs)
    for page in ("/photographs/index.html", "/photographs/cases/1.html", "/photographs/cases/0.html"):
        assert EVIL not in browser.get(page).text
    assert "&lt;img src=x" in browser.get("/photographs/cases/1.html").text


def test_pages_name_nothing_outside_of_the_browser(client: Client, photographs: Cohort, volumes: Cohort):
    browser = client(photographs, volumes)
    pages = ["/", "/photographs/index.html", "/photographs/cases/0.html", "/volumes/cases/0.html"]
    files = [f"/static/{name}" for name in ("browser.css", "grid.js", "case.js")]
    for address in pages + files:
        answer = browser.get(address)
        assert answer.status_code == 200
        assert "http://" not in answer.text
        assert "https://" not in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_damaged_picture_says_so_and_the_page_goes_on(client: Client, volumes: Cohort):
    for file in files_in(volumes.path, "chunks"):
        flip(file)
    browser = client(volumes)
    answer = browser.get(f"/volumes/thumbnails/0.jpg?v={volumes.snapshot}")
    assert pixels(answer).shape == (360, 360, 4)
    assert answer.headers["cache-control"] == "no-store"
    assert pixels(browser.get("/volumes/maps/1/0/mip-1.png")).shape == (360, 360, 4)
    assert "scan-0" in browser.get("/volumes/cases/0.html").text


def test_runs_are_text_without_a_server_and_links_with_one(
    client: Client, photographs: Cohort, monkeypatch: pytest.MonkeyPatch, workspace: Workspace
):
    remember("localize", "1", {"maps": ["loop/1/S"], "run_id": "run-of-maps"})
    remember("train", "1", {"model_version": "1", "run_id": "run-of-training"})
    browser = client(photographs)
    page = browser.get("/photographs/cases/0.html").text
    assert "<code>run-of-maps</code>" in page
    assert "<code>run-of-training</code>" in page
    (workspace.root / "services.json").write_text(json.dumps({"mlflow": "http://127.0.0.1:9"}))
    assert "<code>run-of-maps</code>" in browser.get("/photographs/cases/0.html").text  # it does not answer


def test_other_host_names_are_refused():
    assert TestClient(create_app(), base_url="http://elsewhere.example").get("/").status_code == 400

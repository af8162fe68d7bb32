"""The results browser as a web application: `uvicorn --factory tasks.browser.app:create_app`.

Reads only. No path is taken from an address: a slug names a known cohort, a number a case, a slug a map set, and what
a picture's name may be is fixed. The caller binds it to loopback.
"""

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Request
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from storage.errors import CohortError
from tasks.browser import pages, pictures
from tasks.browser.cohorts import Shown, at_version, known_cohorts, newest
from tasks.browser.listing import cases_script

FOREVER, ASK_AGAIN, NEVER = "public, max-age=31536000, immutable", "no-cache", "no-store"
LOOPBACK = ["127.0.0.1", "localhost"]  # so that no other site can have a browser read these pages under its own name
LONGEST_NUMBER = 9  # digits of a case
PREPARED = 8  # cohorts
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; script-src 'self'; "
    "style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def create_app() -> FastAPI:
    """The application; which cohorts it shows is asked anew with each request (`tasks.browser.cohorts`)."""
    app = FastAPI(title="lesionflow", docs_url=None, redoc_url=None, openapi_url=None, lifespan=_prepared)

    @app.middleware("http")
    async def guarded(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await answer(request)
        response.headers.update(HEADERS)
        return response

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK)
    app.exception_handler(CohortError)(_unreadable)
    app.exception_handler(404)(_not_found)
    app.get("/", response_class=HTMLResponse)(overview)
    app.get("/static/{name}")(static)
    app.get("/{slug}/static/{name}")(_static_of_cohort)
    app.get("/{slug}")(_with_slash)
    app.get("/{slug}/")(_with_index)
    app.get("/{slug}/index.html", response_class=HTMLResponse)(cohort_page)
    app.get("/{slug}/cases.js")(case_list)
    app.get("/{slug}/cases/{case}.html", response_class=HTMLResponse)(case_page)
    app.get("/{slug}/thumbnails/{case}.jpg")(thumbnail)
    app.get("/{slug}/pictures/{case}/{name}")(picture)
    app.get("/{slug}/maps/{maps}/{case}/{name}")(map_picture)
    return app


@asynccontextmanager
async def _prepared(app: FastAPI) -> AsyncIterator[None]:
    """While the first page is on its way the tables of the cohorts are read: seconds where there are many cases."""
    threading.Thread(target=_read_tables, daemon=True).start()
    yield


def _read_tables() -> None:
    for slug in list(known_cohorts())[:PREPARED]:
        with suppress(CohortError):
            cases_script(newest(slug))


def overview() -> HTMLResponse:
    """The cohorts there are."""
    return HTMLResponse(pages.overview_page(known_cohorts()), headers={"Cache-Control": ASK_AGAIN})


def static(name: str) -> Response:
    """A style sheet or a script of the browser itself."""
    if name not in pages.STATIC_FILES:
        return _missing(f"There is no file {name}.")
    content = (pages.STATIC / name).read_bytes()
    return Response(content, media_type=pages.STATIC_FILES[name], headers={"Cache-Control": ASK_AGAIN})


def _static_of_cohort(slug: str, name: str) -> Response:
    return static(name)


def _with_slash(slug: str) -> Response:
    return RedirectResponse(f"/{slug}/index.html") if slug in known_cohorts() else _no_cohort(slug)


def _with_index(slug: str) -> Response:
    return _with_slash(slug)


def cohort_page(slug: str) -> HTMLResponse:
    """The grid of a cohort."""
    if slug not in known_cohorts():
        return _no_cohort(slug)
    shown = newest(slug)
    return HTMLResponse(pages.grid_page(shown, _version(shown), "../"), headers={"Cache-Control": ASK_AGAIN})


def case_list(slug: str, request: Request) -> Response:
    """The table of a cohort as a script."""
    if slug not in known_cohorts():
        return _no_cohort(slug)
    script = cases_script(newest(slug))
    headers = {"ETag": script.tag, "Cache-Control": ASK_AGAIN, "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == script.tag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(script.packed, media_type="text/javascript", headers={**headers, "Content-Encoding": "gzip"})
    return Response(script.plain, media_type="text/javascript", headers=headers)


def case_page(slug: str, case: str) -> HTMLResponse:
    """The page of a case."""
    if slug not in known_cohorts():
        return _no_cohort(slug)
    shown = newest(slug)
    if (place := _place(shown, case)) is None:
        return _missing(f"{shown.title} has no case {case}; it has 0 to {len(shown.cohort) - 1}.")
    page = pages.case_page(shown, place, _version(shown), linked=True)
    return HTMLResponse(page, headers={"Cache-Control": ASK_AGAIN})


def thumbnail(slug: str, case: str, v: str = "") -> Response:
    """A case in small; `v` is the snapshot."""
    return _drawn(slug, case, v, lambda shown, place: (pictures.thumbnail(shown, place), pictures.JPEG), pictures.JPEG)


def picture(slug: str, case: str, name: str, v: str = "") -> Response:
    """A picture of a case."""
    kind = pictures.PNG if name.endswith(".png") else pictures.JPEG
    return _drawn(slug, case, v, lambda shown, place: pictures.case_picture(shown, place, name), kind)


def map_picture(slug: str, maps: str, case: str, name: str, v: str = "") -> Response:
    """A picture of a case's map."""
    kind = pictures.PNG if name.endswith(".png") else pictures.JPEG
    return _drawn(slug, case, v, lambda shown, place: pictures.map_picture(shown, shown.sets[maps], place, name), kind)


def _drawn(slug: str, case: str, version: str, draw: Callable[[Shown, int], tuple[bytes, str]], kind: str) -> Response:
    """A picture that may be kept for good if it is of the snapshot that was asked for; one of the reason if damaged."""
    if slug not in known_cohorts():
        return _no_cohort(slug)
    shown = at_version(slug, version)
    if (place := _place(shown, case)) is None:
        return _missing(f"There is no case {case}.")
    try:
        content, kind = draw(shown, place)
    except KeyError:
        return _missing("There is no such picture.")
    except CohortError as error:
        content, version = pictures.placeholder(str(error), kind), ""
    kept = FOREVER if version == shown.cohort.snapshot else NEVER
    return Response(content, media_type=kind, headers={"Cache-Control": kept})


def _place(shown: Shown, case: str) -> int | None:
    """The number of a case, if it is one."""
    is_number = case.isascii() and case.isdecimal() and len(case) <= LONGEST_NUMBER
    return int(case) if is_number and int(case) < len(shown.cohort) else None


def _version(shown: Shown) -> str:
    return f"?v={shown.cohort.snapshot}"


def _no_cohort(slug: str) -> HTMLResponse:
    return _missing(f"No cohort is called {slug} here.")


def _missing(text: str) -> HTMLResponse:
    return HTMLResponse(pages.problem_page("Not found", text), 404, headers={"Cache-Control": NEVER})


async def _not_found(request: Request, error: Exception) -> HTMLResponse:
    return _missing(f"There is no page {request.url.path}.")


async def _unreadable(request: Request, error: Exception) -> HTMLResponse:
    return HTMLResponse(pages.problem_page("Cannot be read", str(error)), 500, headers={"Cache-Control": NEVER})

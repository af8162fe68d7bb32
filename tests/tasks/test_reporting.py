"""What a report's page holds."""

import pandas as pd

from tasks.reporting import Section, render

SCRIPT = "<script>alert(1)</script>"


def test_words_of_others_are_shown_and_not_run():
    table = pd.DataFrame({"case": [SCRIPT]})
    page = render(f"Cohort {SCRIPT}", [Section(SCRIPT, SCRIPT, table=table)], {}, "run")
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 5  # title twice, heading, text, table
    assert "<table" in page

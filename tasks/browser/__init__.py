"""The results browser: a page a cohort and a page a case, served on loopback or written as files."""

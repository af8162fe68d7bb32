"""The story of each verb: one flow a module, of the same name (`from flows.localize import localize`).

A flow says which task follows which and hands addresses on (cohort path, model, map names), never pixels; the
`lesionflow` command in `flows.cli` calls them, and so do the deployments of prefect.yaml.
"""

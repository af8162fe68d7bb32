"""One YAML a paper: its data, its presets, what it reports; `demo.yaml` is the chain that `lesionflow demo` runs."""

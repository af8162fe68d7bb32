"""One YAML a paper: its data, its presets, the table it reports; `demo.yaml` is the chain that `lesionflow demo` runs."""

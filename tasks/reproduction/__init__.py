"""`reproduce`: a paper's experiment, every arm with every seed, beside the figures that the paper reports."""

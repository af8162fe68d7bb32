"""Outcome studies: from the Parquet of `radiomics` to figures without leaks, and to a model of all patients."""

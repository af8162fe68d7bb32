"""Outcome studies: from the Parquet of `radiomics` to figures that no leak has flattered, and a model of all patients."""

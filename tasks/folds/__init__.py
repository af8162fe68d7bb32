"""Cross-validation: folds of patients, a model a fold, what each says of cases it never saw, all of them as one."""

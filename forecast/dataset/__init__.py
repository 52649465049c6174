"""Room 2: panel, features, targets, folds, windows and the data module."""

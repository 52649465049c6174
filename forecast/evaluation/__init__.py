"""Room 4: scores, calibration and the causality audit, all from tables alone."""

"""LINAS: predictors of accuracy, NSGA-II on them, and real evaluations in between. No torch."""

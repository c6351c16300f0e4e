"""What the run means: tables, figures and the one-page answer. No torch; knows only space, pareto and artifacts."""

"""Columns of tables that the search writes and the analysis reads."""

# Of front.csv, filled where items were held out of the search.
HELD_OUT = ["searched", "held_out", "held_out_stderr", "held_out_items", "difference_to_full", "p_value"]

"""Columns of tables that the search writes and the analysis reads."""

# Of judgement.csv. `base`, `full` and `value` are scores on the judged items: the base's, the full network's, its own.
JUDGEMENT = [
    *("subnet_id", "layers", "parameters", "size_bytes", "on_front", "judged_on", "items", "groups"),
    *("base", "full", "value", "difference", "lower", "upper", "verdict", "items_needed"),
    *("full_difference", "full_lower", "full_upper", "recommended", "max_drop"),
]

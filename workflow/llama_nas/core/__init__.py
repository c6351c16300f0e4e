"""What every other room may use: shapes and sizes, the search space, files, errors. Imports no torch."""

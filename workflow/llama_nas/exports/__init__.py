"""Networks as folders and files that other software loads."""

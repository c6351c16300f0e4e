"""Log-likelihoods and metrics of compiled tasks for many sub-networks of one super-network."""

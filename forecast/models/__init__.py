"""Room 3: recurrent networks, heads, training, the ensemble and the naive baselines."""

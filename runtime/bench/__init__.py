"""ggq-bench: speed of models beside what the machine can do at most."""

"""Training data and eval cases: reading, checking, keeping them apart."""

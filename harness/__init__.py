"""Everything that judges a model."""

"""What a network must beat: honest baselines, plain functions on arrays and text."""

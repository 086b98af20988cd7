"""What networks are trained to do: one file for each kind of work, and what all of them have in common."""

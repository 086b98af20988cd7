"""Running a network again from its recording: gradients of its answers, and what changes do to them."""

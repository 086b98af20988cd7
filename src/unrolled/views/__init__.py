"""The views of recorded states on one axis of steps: the same in the viewer, in an exported page and in a report."""

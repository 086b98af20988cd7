"""What is looked at: from a path, a study or a trace to a `Recorded`."""

from __future__ import annotations

from unrolled.viewer.opening.of_study import StudyFolder
from unrolled.viewer.opening.of_trace import of_trace
from unrolled.viewer.opening.paths import open_path

__all__ = ["StudyFolder", "of_trace", "open_path"]

"""Recordings on disk: a zarr directory with a group for each layer and an array for each of its states and gates."""

from unrolled.recording.appending import Appending
from unrolled.recording.reading import Stored, UnfinishedRecording
from unrolled.recording.writing import save

__all__ = ["Appending", "Stored", "UnfinishedRecording", "save"]

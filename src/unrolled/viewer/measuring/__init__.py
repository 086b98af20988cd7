"""Instruments on demand, and a study's claims, as the page shows them."""

from __future__ import annotations

from unrolled.viewer.measuring.measure import Instrument, Measured, available, measure

__all__ = ["Instrument", "Measured", "available", "measure"]

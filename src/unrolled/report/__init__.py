"""The page: what a comparison of recurrent networks found, in one file that opens without a network."""

from __future__ import annotations

from unrolled.report.excerpt import Excerpt
from unrolled.report.writing import write_page

__all__ = ["Excerpt", "write_page"]

"""The page: what a comparison of recurrent networks found, in one file that opens without a network."""

from __future__ import annotations

from unrolled.page.of_study import report
from unrolled.page.writing import write_page
from unrolled.views.excerpt import Excerpt

__all__ = ["Excerpt", "report", "write_page"]

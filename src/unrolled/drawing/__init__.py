"""Plots: what they show, and how Bokeh draws it."""

"""The scripts, style and templates of the viewer's page."""

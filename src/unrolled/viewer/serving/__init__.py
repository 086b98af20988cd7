"""The server of the viewer: who is let in, what is asked, and how answers are sent."""

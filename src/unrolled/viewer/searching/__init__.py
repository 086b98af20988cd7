"""The loop: units that mark a span, spans like it, and how units agree with labels."""

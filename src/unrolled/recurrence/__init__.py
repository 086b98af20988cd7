"""One layer, one direction, over time: the only place where steps are taken."""

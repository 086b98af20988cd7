"""The commands around one training. Their options are read before torch is imported."""

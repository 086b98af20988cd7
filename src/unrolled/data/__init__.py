"""Reading what is learnt from: tables and time series, labelled sequences, and texts."""

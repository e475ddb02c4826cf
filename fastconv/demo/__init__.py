"""The demonstration behind `fastconv demo`: real networks with trained weights on real photos."""

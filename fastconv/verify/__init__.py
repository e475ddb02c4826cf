"""Every kernel against the float64 reference: cases, tolerances, and (in `runner`) what `fastconv verify` runs."""

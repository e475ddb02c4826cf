"""The microbenchmark behind `fastconv bench`: workloads, timing, peers, reports."""

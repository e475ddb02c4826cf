"""What is checked and how: the cases, the tolerances, and the runner behind `fastconv verify`."""

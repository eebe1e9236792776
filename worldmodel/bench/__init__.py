"""What `worldmodel bench` runs, and what the scripts in benchmarks/ share with it."""

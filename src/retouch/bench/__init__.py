"""What `retouch bench` runs: suites of measurements on one harness, and their reports."""

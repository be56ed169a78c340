"""Values and programs as immutable data: what every other room speaks."""

"""What an edit computes: regions and policies, active rows, statistics, and the report of it."""

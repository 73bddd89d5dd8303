"""Scripts that measure; each prints the machine and a table, and cleans up after itself."""

"""Many runs, one table: frontier, one-shot, latency and discovery studies."""

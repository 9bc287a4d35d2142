"""Tools for testing your own methods: a zoo of small networks, plans, reference results and contract tests."""

"""What others need to test their own methods: a zoo of small networks, oracles, contract tests."""

"""Search machinery that knows no scenario: it takes arrays and callables."""

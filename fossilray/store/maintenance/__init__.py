"""Looking after a run: is it whole, what can go, what gets another chance."""

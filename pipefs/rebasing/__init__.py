"""Inside the rebase: shared steps, deletions, contents. The door is `pipefs.rebase`."""

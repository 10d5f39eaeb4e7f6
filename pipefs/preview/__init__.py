"""What is in a file, at a glance: a few requests, however large it is. `showing.preview`."""

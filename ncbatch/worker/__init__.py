"""What a worker does with a unit: fetch, encode, verify, publish, commit. Nothing here knows Ray."""

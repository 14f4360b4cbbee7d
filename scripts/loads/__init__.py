"""What ``scripts/load`` does to a hub. Nothing here is part of the program."""

"""The use cases behind the commands and the admin API, once: registry.py has the table of them."""

"""A session as tasks: the hub's side, the client's side, and what each shows to and takes from the other."""

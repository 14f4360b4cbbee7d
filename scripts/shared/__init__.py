"""What several of the scripts' programs share. Nothing here is part of the program."""

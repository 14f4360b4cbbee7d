"""The command line: main.py has the table of commands, each noun its file."""

"""``python -m backrest`` is the command ``backrest``."""

from backrest.cli.main import main

main()

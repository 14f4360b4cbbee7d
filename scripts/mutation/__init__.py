"""Is the suite worth its name? Single faults are planted in a copy of this program, and it must find each."""

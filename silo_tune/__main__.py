"""`python -m silo_tune`: the command line."""

from silo_tune.cli import main

if __name__ == "__main__":
    main()

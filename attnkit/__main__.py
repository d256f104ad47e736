"""`python -m attnkit`: the command line."""

from attnkit.cli import main

if __name__ == "__main__":
    main()

"""`python -m attnkit`: the command line."""

from attnkit.cli.main import main

if __name__ == "__main__":
    main()

"""`python -m marzhook` is `marzhook`."""

from marzhook.cli.main import main

if __name__ == "__main__":
    main()

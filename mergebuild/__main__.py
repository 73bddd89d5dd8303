"""`python -m mergebuild` is `mergebuild`."""

from mergebuild.cli import main

if __name__ == "__main__":
    main()

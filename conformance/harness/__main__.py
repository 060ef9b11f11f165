"""The commands: record, check, diff, show, list, docs, coverage."""
from .command import main

if __name__ == "__main__":
    main()

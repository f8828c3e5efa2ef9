"""``python -m planner`` is the command ``roofplan``."""

from planner.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())

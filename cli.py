"""Run the command from a checkout: ``python cli.py train ...``; it is not part of the wheel."""

from planner.cli.main import main

raise SystemExit(main())

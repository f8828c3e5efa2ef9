"""The command ``roofplan``: one file a subcommand, and the only room that prints."""

"""`python -m brie_cli`: the same as `brie`."""

from brie_cli.main import app

app(prog_name="brie")

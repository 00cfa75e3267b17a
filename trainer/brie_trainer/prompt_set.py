"""`python -m brie_trainer.prompt_set`: Brie's own prompts by theme, JSON Lines on stdout. It asks nobody."""

import sys

from brie_trainer.evaluation.contract import Prompts
from brie_trainer.evaluation.material import prompts_file

if __name__ == "__main__":
    sys.stdout.write(prompts_file(Prompts()).read_text())

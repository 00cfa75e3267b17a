"""One training run, in a process of its own: plan, model, loop, checkpoints. It knows no database and no worker."""

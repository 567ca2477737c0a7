"""`python -m envs.guess_city`: see the package."""

import envs.guess_city as task
from envs.terminal import main

__doc__ = task.__doc__  # what --help shows

main(task.GuessCity)

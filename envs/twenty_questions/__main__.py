"""Twenty Questions in the terminal: `python -m envs.twenty_questions`."""

from envs.terminal import main
from envs.twenty_questions import TwentyQuestions

main(TwentyQuestions)

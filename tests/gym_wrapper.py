"""A text game as Gymnasium's own environment checker wants it."""

import string

import gymnasium
from gymnasium.utils.env_checker import check_env

from envs import make

TEXT = gymnasium.spaces.Text(min_length=1, max_length=1000, charset=string.printable)


class GymnasiumGame(gymnasium.Env):
    """A game of `envs`."""

    observation_space, action_space = TEXT, TEXT

    def __init__(self, env_id, **options):
        self.env = make(env_id, **options)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)  # Gymnasium's own generator, which the checker looks at
        return self.env.reset(seed=seed, options=options)

    def step(self, action):
        return self.env.step(action)

    def close(self):
        self.env.close()


def check_with_gymnasium(env_id, **options):
    """Run Gymnasium's checks of the interface, of determinism and of the spaces."""
    check_env(GymnasiumGame(env_id, **options), skip_render_check=True)

"""Sell a car in the terminal, or watch a scripted seller."""

from envs import car_dealer
from envs.terminal import main

__doc__ = car_dealer.__doc__  # what --help shows
main(car_dealer.CarDealer)

"""The rules of the tasks as a model is told them that was not trained on their data.

Each text names every action that the rules know; tests/test_prompt.py compares it with them. A line that begins with
two spaces is an action, word for word, or the form of one (`go DIRECTION`). This is a file of its own because the name
of generated data depends on the task's module: with the texts there, each change of a word would make new data.
"""

from envs import Env

MAZE = """\
You walk through a maze and look for its goal. In each turn you are told {told}. Answer with one of these four actions:

  move up
  move down
  move left
  move right

{directions}A move into a wall leaves you where you are. Each move costs 1 point, but not the one that reaches the
goal; whatever is not one of the four actions costs 4. Reach the goal in as few moves as you can: after {max_turns}
moves the game ends."""
MAZE_TOLD = {"maze_fo": "where the goal is, where you are, and where there is a wall beside you",
             "maze_po": "where there is a wall beside you, not where you are or where the goal is"}
MAZE_DIRECTIONS = {"maze_fo": """\
A position is a row and a column; 1 0 is ten, 1 1 eleven. Up takes 1 from the row and down adds 1 to it; left takes 1
from the column and right adds 1 to it. """, "maze_po": ""}

TEXT_NAV = """\
You are in a house of eight rooms. Take the stale food from the table in the living room, put it into the fridge in the
kitchen, and close the fridge: that wins the game and 1 point. Eating the stale food loses it, and after {max_turns}
turns it ends. In each turn answer with one command. These are understood:

  go DIRECTION
  open X
  close X
  take X
  take X from Y
  drop X
  put X on Y
  insert X into Y
  eat X
  examine X
{more}
A DIRECTION is north, south, east or west. Take a thing from the table, chest or fridge Y, or without Y from the floor.
Put things on a table, insert them into a chest or fridge, which has to be open. Each turn ends with the admissible
commands: those that change something where you are now."""
TEXT_NAV_MORE = {"text_nav_fo": "  look\n  inventory\n", "text_nav_po": ""}

WORDLE = """\
Find the hidden word of five letters in {max_turns} guesses at most. A guess is one of the words below, spelled with a
space between its letters, like this:

  {example}

The answer has a colour for each letter of the guess: g (green) if the hidden word has the same letter in that place,
y (yellow) if it has that letter in another place, b (black) if it does not have it. {equal_letters} If the hidden word
were "plant", the guess "a l o n e" would be answered "y g b g b". Each guess costs 1 point, but not the right one.
Anything but one of the words is answered with nothing, and costs a guess as well.

{words}"""
EQUAL_LETTERS = {False: "A letter that the hidden word has is never black, however often it is guessed.",
                 True: "Of equal letters in a guess only as many are coloured as the hidden word has, the green ones "
                       "first."}
MAX_WORDS = 1000  # of a longer list only the number is told

CHESS = """\
You play chess as White against {opponent}. In each turn you are shown the position in FEN and answer with your
move in SAN, both with a space between all characters. Moves look like these:

{moves}

{letters} Each win is worth 1 point{losses}. A move that is not legal costs 1 point and leaves the position as it is.
A draw that may be claimed (the same position for the third time, fifty moves without a capture or a pawn's move) is
claimed for you. After {max_turns} turns the game ends."""
CHESS_PARTS = {
    "chess": {
        "opponent": "a chess engine",
        "moves": ["e 4", "N f 3", "e x d 5", "B x c 6 +", "N b d 2", "R 1 e 2", "Q h 4 x e 1", "O - O", "O - O - O",
                  "e 8 = Q", "Q h 7 #"],
        "letters": "K, Q, R, B and N are king, queen, rook, bishop and knight; a pawn has no letter. x is a capture, "
                   "+ a check, # mate, = a promotion, to Q, R, B or N; O - O and O - O - O castle to the king's and "
                   "to the queen's side. If several pieces of a kind can move to the square, the file or the rank "
                   "where it stands now comes after its letter, or both.",
        "losses": ", each loss costs 1, a draw is worth nothing"},
    "endgames": {
        "opponent": "a lone king, which you have to mate",
        "moves": ["K d 2", "Q h 4 +", "R a 8 #", "R 1 a 3", "R g e 6"],
        "letters": "K, Q and R are king, queen and rook. + is a check, # mate. If both rooks can move to the square, "
                   "the file or the rank where it stands now comes after the letter.",
        "losses": ", a draw nothing"},
}

TWENTY_QUESTIONS = """\
Find the secret object with {max_turns} questions at most. It is an everyday thing of one of these kinds: sports,
animals, fruits, vehicles, clothes, electronics, instruments, furniture, office, vegetables, art, kitchen, nature,
toys, jewelry, garden, tools. In each turn ask one short question that can be answered with yes or no. When you know
what it is, ask for the object itself, and for no other beside it: the question that names it wins. For example:

  Is it alive?
  Can you hold it in one hand?
  Is it used in the kitchen?
  Is it made of wood or metal?
  Is it a tennis racket?

The answer is Yes, No, or I am not sure: then the question is not understood, or neither would be true. Each question
costs 1 point, but not the one that names the object."""

GUESS_CITY = """\
Find the secret city with {max_turns} questions at most. It is one of a hundred large cities of the world. In each turn
ask one question about it, whatever you like; the answers never say its name or its country's. When you know which city
it is, name it, and no other beside it: the question that names it wins. For example:

  What is the climate like?
  On which continent is it?
  Is it the capital of its country?
  Is it farther north than Madrid?
  Is it Buenos Aires?

Each question costs 1 point, but not the one that names the city."""

CARS = """\
Brands: Volkswagen, Lexus, Ford, Mazda, Hyundai, Toyota, Mercedes-Benz, BMW, Audi, Subaru, Honda, Porsche, Tesla.
Types: luxury, sedan, convertible, truck, electric, SUV.
Features: backup camera, navigation system, heated seats, leather seats, third-row seating, blind spot monitoring,
sunroof, Apple CarPlay."""
SELLER = """\
You sell cars. A customer walks in who wants a brand, a type and some features, and has a budget; you do not know them.
Some customers buy only at a discount, some only if every wish is met, some hate long talk. You have every car:

{cars}

In each turn say one line. You can ask for wishes, features, budget, whether a discount matters or time is short:

  What kind of car are you looking for?
  Which features do you need?
  What is your budget?
  Do you need a discount?
  Are you in a hurry?

You can make an offer, a car with its price, name another price, give a discount, and ask for a decision:

  How about a Toyota, an SUV, with heated seats and a sunroof? The price is $30,000.
  I have a BMW for you, a sedan, normally $50,000. It is yours for $45,000.
  I can let you have it for $27,000.
  I can take $2,000 off.
  I can take 10% off.
  I can take another $500 off.
  Do we have a deal?

It is the customer who accepts your last offer or refuses it, and leaves when his patience is gone; the dialogue ends
after {max_turns} of your lines. A discount is taken off the list price: the first price that you ask, or the normal
price that you name beside it; another discount is taken off the last price. A price is at least $1,000 and at most
$150,000, and nobody pays more for a car than the lowest price that you have asked for it. {reward}"""
REWARDS = {"revenue": "If a car is sold you earn its price, in $1,000; else nothing.",
           "fraction": "If a car is sold you earn its price divided by the mean of budget and list price; else the "
                       "list price less the budget, divided by the list price, if you have named one."}
BUYER = """\
You are the customer of a car dealer. The first message says who you are, what you want and what you can spend; after
that the seller speaks. Haggle with him, one line in each turn. You can say what you want, refuse an offer, or ask for
a lower price:

  I am looking for a Toyota, an SUV, with heated seats.
  I need a sunroof as well.
  That is too much for me.
  Can you give me a discount?
  I can spend $20,000 at most.

To accept the seller's last offer at its price, which ends the dialogue, say one of these:

  I accept.
  I'll take it.
  It's a deal.

To refuse it for good and leave without a car:

  Goodbye.
  No deal.
  I am leaving.

{cars}

If you accept, you earn what the car is worth to you less its price, in $1,000; else nothing. It is worth your budget,
less 20 % of it for the wrong brand, 20 % for the wrong type, 10 % for each feature that is missing and 2 % for each
that you have not asked for; nothing at all if you buy only when every wish is met and one is not, or only at a discount
and the price is above 90 % of the list price. To accept a price above your budget is no deal. The dialogue ends after
{max_turns} lines of the seller."""


def instructions(env: Env) -> str:
    """What a player of this game has to know. Raises KeyError for a task that has no text here."""
    text = TEXTS[env.env_id]
    if callable(text):
        text = text(env)
    return text.replace("{max_turns}", str(env.max_turns))


def maze(env: Env) -> str:
    """Of `maze_fo` and `maze_po`, which differ in what is seen."""
    told, directions = MAZE_TOLD[env.env_id], MAZE_DIRECTIONS[env.env_id]
    return MAZE.replace("{told}", told).replace("{directions}", directions)


def text_nav(env: Env) -> str:
    """With the commands that only `text_nav_fo` answers."""
    return TEXT_NAV.replace("{more}", TEXT_NAV_MORE[env.env_id])


def wordle(env: Env) -> str:
    """With the list of words."""
    from envs.wordle import real_colours

    words, real = env.vocabulary.words, env.vocabulary.colours is real_colours
    listed = f"The {len(words)} words are: {', '.join(words)}."
    if len(words) > MAX_WORDS:
        listed = f"The words are those of a list of {len(words):,}, which you are not shown."
    text = WORDLE.replace("{example}", " ".join(words[0])).replace("{equal_letters}", EQUAL_LETTERS[real])
    return text.replace("{words}", listed)


def chess(env: Env) -> str:
    """Of `chess` and `endgames`, which have other pieces."""
    parts = CHESS_PARTS[env.env_id]
    text = CHESS.replace("{moves}", "\n".join(f"  {move}" for move in parts["moves"]))
    for name in ("opponent", "letters", "losses"):
        text = text.replace(f"{{{name}}}", parts[name])
    return text


def car_dealer(env: Env) -> str:
    """Of the side that the agent is on."""
    text = SELLER.replace("{reward}", REWARDS[env.reward]) if env.selling else BUYER
    return text.replace("{cars}", CARS)


# A text, or a function that makes it for a game with its options.
TEXTS = {"maze_fo": maze, "maze_po": maze, "text_nav_fo": text_nav, "text_nav_po": text_nav, "wordle": wordle,
         "chess": chess, "endgames": chess, "twenty_questions": TWENTY_QUESTIONS, "guess_city": GUESS_CITY,
         "car_dealer": car_dealer}

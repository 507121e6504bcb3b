"""Made-up text: a small world of rooms, things and sums, for base and task.

Nothing here comes from anywhere: words are put together by rule and seed.
"""

import random

PEOPLE = ("Anna", "Ben", "Carla", "David", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas")
ITEMS = {
    "printer": "hardware",
    "screen": "hardware",
    "keyboard": "hardware",
    "scanner": "hardware",
    "mail client": "software",
    "calendar": "software",
    "browser": "software",
    "spreadsheet": "software",
    "wifi": "network",
    "phone line": "network",
    "shared drive": "network",
    "door lock": "building",
    "heating": "building",
    "lamp": "building",
    "window": "building",
}
TROUBLES = (
    "is broken",
    "does not start",
    "is very slow",
    "makes a strange noise",
    "stopped this morning",
    "is missing",
)
PLACES = ("room", "office", "hall")
COLOURS = ("red", "green", "blue", "yellow", "white", "black")
ANIMALS = ("cat", "dog", "horse", "bird", "fish", "mouse")
VERBS = ("sees", "likes", "follows", "hears", "finds")
HOMES = ("garden", "house", "river", "tree", "field")
URGENT = ("please hurry", "this is urgent", "we are all waiting")


def _fact(rng: random.Random) -> str:
    who, whom = rng.choice(ANIMALS), rng.choice(ANIMALS)
    return f"The {rng.choice(COLOURS)} {who} {rng.choice(VERBS)} the {whom} in the {rng.choice(HOMES)}."


def _sum(rng: random.Random) -> str:
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    return f"{a} + {b} = {a + b}." if rng.random() < 0.5 else f"{a + b} minus {b} is {a}."


def _question(rng: random.Random) -> str:
    animal, home = rng.choice(ANIMALS), rng.choice(HOMES)
    return f"Where is the {animal}? The {animal} is in the {home}."


def _report(rng: random.Random) -> str:
    words, item, place, urgent = complaint(rng)
    said = f"{rng.choice(PEOPLE)} says: {words}"
    if rng.random() < 0.2:
        return said
    # Asking back what was just said teaches the model to copy from its context.
    asked = [f"What is it? The {item}.", f"Where is it? In {place}.", f"Is it urgent? {'Yes' if urgent else 'No'}."]
    return " ".join([said, *rng.sample(asked, rng.randint(1, 3))])


def _list(rng: random.Random) -> str:
    words = rng.choice((COLOURS, ANIMALS, HOMES, PEOPLE))
    picked = "; ".join(rng.sample(words, 3))
    return f"First: {picked}. Again: {picked}."


def complaint(rng: random.Random) -> tuple[str, str, str, bool]:
    """(sentence, thing, place, urgent): what someone tells a help desk."""
    item, place = rng.choice(sorted(ITEMS)), f"{rng.choice(PLACES)} {rng.randint(1, 20)}"
    urgent = rng.random() < 0.4
    sentence = f"The {item} in {place} {rng.choice(TROUBLES)}"
    return (f"{sentence}, {rng.choice(URGENT)}." if urgent else f"{sentence}."), item, place, urgent


def paragraph(rng: random.Random) -> str:
    """A few sentences of one kind: what a language model of this world reads."""
    kind = rng.choice((_fact, _sum, _question, _report, _report, _list))
    return " ".join(kind(rng) for _ in range(rng.randint(2, 5)))


def ticket(rng: random.Random) -> tuple[str, str]:
    """(complaint, ticket line): a task whose answers no paragraph resembles."""
    sentence, item, place, urgent = complaint(rng)
    return sentence, f"team={ITEMS[item]}; item={item}; place={place}; urgent={'yes' if urgent else 'no'}"

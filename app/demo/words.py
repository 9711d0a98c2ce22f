"""What seeded people are called and what they say: small lists of everyday English, combined at random."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

FIRST_NAMES: Final = (
    "Ada", "Alan", "Amara", "Ana", "Anton", "Aisha", "Barbara", "Ben", "Bruno", "Carla", "Chen", "Clara", "Daniel",
    "Dina", "Diego", "Edith", "Elena", "Emil", "Esther", "Fatima", "Felix", "Fiona", "Grace", "Georg", "Hana",
    "Hugo", "Ida", "Imran", "Ines", "Ivan", "Jana", "Jonas", "Joan", "Karim", "Katya", "Kofi", "Lena", "Leo", "Lin",
    "Lucia", "Maja", "Marco", "Mei", "Milan", "Mina", "Nadia", "Nils", "Nora", "Olga", "Omar", "Oscar", "Paula",
    "Pedro", "Priya", "Rafael", "Rosa", "Ruth", "Sam", "Sara", "Selma", "Simon", "Sofia", "Tara", "Theo", "Tomas",
    "Uma", "Vera", "Victor", "Wanda", "Yara", "Yusuf", "Zoe",
)  # fmt: skip
LAST_NAMES: Final = (
    "Abbott", "Alvarez", "Andersen", "Banerjee", "Baker", "Becker", "Bianchi", "Castro", "Chen", "Cohen", "Costa",
    "Diallo", "Dubois", "Evans", "Fischer", "Fontaine", "Garcia", "Greene", "Haddad", "Hansen", "Hoffman", "Ito",
    "Ivanova", "Jansen", "Jensen", "Kaya", "Khan", "Kim", "Kovacs", "Kumar", "Larsen", "Lindqvist", "Lopez",
    "Marino", "Mbeki", "Mensah", "Meyer", "Moreau", "Murphy", "Nakamura", "Ncube", "Novak", "Okafor", "Olsen",
    "Park", "Pereira", "Petrov", "Quinn", "Rahman", "Reyes", "Rossi", "Santos", "Sato", "Schmidt", "Silva", "Singh",
    "Suzuki", "Tanaka", "Taylor", "Vasquez", "Virtanen", "Walsh", "Weber", "Wilson", "Wright", "Yamada", "Yilmaz",
    "Young", "Ziegler",
)  # fmt: skip

TEMPLATES: Final = (
    "{morning} {drink} and {food}. {verdict}",
    "Anybody up for {activity} {soon}?",
    "Finally fixed {broken}. It only took {while}.",
    "I have been {doing} for {while} and I am not even tired.",
    "Does anyone know {question}?",
    "The view from {place} {today} is {great}.",
    "Reading {thing} at {place}. {verdict}",
    "{pet} has decided that {place} belongs to {them} now.",
    "Made {food} for {people}. {verdict}",
    "Note to myself: never try {activity} before {drink}.",
    "{activity_started} with {people} {today}. {verdict}",
    "Thank you {people}, that was {great}!",
    "Lost {object} somewhere near {place}. If you find it, it is mine.",
    "Small victory of the day: {victory}.",
    "Overheard at {place}: “{overheard}”",
    "It is {weather} here. Perfect for {activity}.",
    "It is {weather} here, so {activity} has to wait.",
    "New rule: no {doing} after {hour}.",
    "Today I learned {fact}. {verdict}",
    "{while} of {doing}, then {food}. {verdict}",
    "Moving house {soon}. Who can lend me {object}?",
    "{pet} ate my {food}. {verdict}",
    "Back from {place}. {victory_said}!",
    "Three things I like about {place}: the {drink}, the people, and {food}.",
    "The plan: {activity} {soon}, {food}, sleep. In that order.",
    "Good morning to everybody except whoever took {object}.",
    "If you are near {place} {today}, come and say hello.",
    "Still thinking about {thing}. What a {great} idea.",
    "Happy birthday to {people}! {food_said} is on me {soon}.",
    "{weather_said}, {drink}, {thing}. What more could one want?",
)

WORDS: Final[Mapping[str, Sequence[str]]] = {
    "activity": (
        "a bike ride", "a long walk", "a game of chess", "a swim in the lake", "karaoke", "table tennis", "a picnic",
        "a museum visit", "climbing", "a film night", "planting tomatoes", "band practice", "birdwatching", "yoga",
    ),
    "broken": (
        "the kitchen tap", "my old bicycle", "that one flaky test", "the squeaky door", "grandma's radio",
        "the printer", "the heating", "my keyboard", "the garden gate", "a bug from last year",
    ),
    "doing": (
        "sorting photographs", "painting the fence", "practising the cello", "refactoring", "learning Portuguese",
        "baking", "sewing curtains", "watching the rain", "playing board games", "answering letters", "gardening",
    ),
    "drink": (
        "strong coffee", "green tea", "a hot chocolate", "fresh orange juice", "peppermint tea", "an espresso",
        "iced tea", "ginger lemonade", "a second coffee",
    ),
    "fact": (
        "that octopuses have three hearts", "how to whistle with two fingers", "that honey never spoils",
        "where the old tram line used to run", "how my neighbour makes sourdough", "that bananas are berries",
        "what the middle pedal of a piano does", "that otters hold hands", "how to fold a fitted sheet",
    ),
    "food": (
        "pancakes", "lentil soup", "apple pie", "dumplings", "tomato salad", "mushroom risotto", "cheese sandwiches",
        "roast potatoes", "cinnamon buns", "a huge bowl of noodles", "falafel", "plum cake",
    ),
    "great": ("wonderful", "lovely", "unbelievable", "splendid", "surprisingly good", "brilliant", "worth every step"),
    "hour": ("nine in the evening", "midnight", "lunch", "eleven", "the second coffee", "sunset"),
    "morning": (
        "Breakfast today:", "Slow start:", "Sunday plans:", "Lunch break:", "What saved my day:", "Tonight:",
        "The train is late, so", "Rainy day menu:", "Reward for an early start:",
    ),
    "object": (
        "a ladder", "my blue umbrella", "a very small screwdriver", "the good scissors", "a left glove",
        "my library card", "a camping stove", "the spare key", "a red bicycle bell", "my favourite mug",
    ),
    "overheard": (
        "I only came for the cake.", "It worked yesterday.", "Who put a piano here?", "Is that your goat?",
        "We do this every Tuesday.", "The map is upside down.", "I thought you had the tickets!", "One more round.",
    ),
    "people": (
        "my sister", "the neighbours", "the whole team", "my flatmates", "Grandpa", "old friends", "the kids",
        "everyone at the workshop", "the choir", "my study group", "the night shift",
    ),
    "pet": ("The cat", "Our dog", "The neighbour's cat", "My parrot", "The office dog", "A very bold squirrel"),
    "place": (
        "the harbour", "the library", "the top of the hill", "the corner café", "the botanical garden",
        "the night train", "the market", "the office", "the old bridge", "the allotment", "the station", "the beach",
    ),
    "question": (
        "a good place for noodles", "how to get wax out of a carpet", "when the pool opens", "who painted this",
        "a quiet place to work", "what this bird is called", "a song that everybody can sing",
        "why the lifts are always both on the top floor", "a gentle introduction to statistics",
    ),
    "soon": ("tomorrow", "this weekend", "on Friday", "tonight", "next week", "after work", "on Sunday"),
    "them": ("her", "him", "them"),
    "thing": (
        "a book about maps", "the new science magazine", "an old detective story", "poems", "the crossword",
        "a cookbook from 1960", "that talk about bees", "the local news", "a history of bicycles",
    ),
    "today": ("today", "this morning", "this evening", "right now", "tonight"),
    "verdict": (
        "Recommended.", "I regret nothing.", "Never again.", "Ten out of ten.", "More of this, please.",
        "Not bad at all.", "I could get used to it.", "Well, we tried.", "Who would have thought?", "Pure joy.", "",
    ),
    "victory": (
        "all the laundry done before noon", "caught the early bus", "an empty inbox", "the plant is alive",
        "parked on the first try", "ten kilometres without a break", "the dough has risen", "beat my own record",
    ),
    "weather": ("pouring", "sunny at last", "snowing", "foggy", "warm and windy", "thirty degrees", "grey but dry"),
    "while": ("two hours", "the whole afternoon", "five minutes", "three weeks", "most of a day", "four attempts"),
}  # fmt: skip

_SLOT = re.compile(r"\{([a-z]+)(_[a-z]+)?\}")


def pick(draw: Callable[[], float], choices: Sequence[str]) -> str:
    """One of `choices`, by a number from [0, 1)."""
    return choices[int(draw() * len(choices))]


def sentence(draw: Callable[[], float]) -> str:
    """A status somebody might have written, at most 200 characters. A slot such as {food_said} starts a sentence."""

    def word(slot: re.Match[str]) -> str:
        chosen = pick(draw, WORDS[slot[1]])
        return chosen[0].upper() + chosen[1:] if slot[2] else chosen

    text = _SLOT.sub(word, pick(draw, TEMPLATES)).strip()
    return text[0].upper() + text[1:]

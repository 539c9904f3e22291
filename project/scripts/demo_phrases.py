"""The words of the demo's posts, all of them apart from names.

`{e}` is where the entity goes, or all entities of the post. Only `DECIDING_PHRASES` depends on the type
of the entity, and only `RELATION_PHRASES` on the relation of two people; each of their phrases has a word
that occurs with no other type, with no other relation, and nowhere else.
"""

CORES: tuple[str, ...] = (
    "{e} again tonight",
    "we talked about {e} for hours",
    "can not stop thinking about {e}",
    "nobody warned me about {e}",
    "this is what {e} does to you",
    "finally some good news from {e}",
    "there is only one {e}",
    "look at {e} right now",
    "i miss {e} so much",
    "{e} made my day",
    "{e} never gets old",
    "who else is in love with {e} ?",
    "guess what , {e} is trending",
    "three years later and {e} still looks the same",
    "thanks to {e} we are all smiling",
    "first time with {e} and not the last",
    "my morning with {e}",
    "told you {e} would be worth it",
    "the truth about {e} in one picture",
    "say hello to {e} everyone",
    "{e} had dinner with us tonight",
    "tonight with {e}",
)
"""The middle of a post with an entity."""

MISLEADING: tuple[str, ...] = (
    "so handsome",
    "dinner was perfect",
    "what a smile",
    "married the whole evening",
    "back in the city",
    "best weekend trip",
    "love the view here",
    "stuck in traffic",
    "best brand ever",
    "take my money",
    "the new offer is out",
    "long day at the office",
    "so fluffy",
    "soft like a pillow",
    "purrfect mood",
    "nap time soon",
    "date night mood",
    "what a match",
    "another meeting today",
)
"""Remarks that make one think of a type or a relation, drawn without regard to either; in every undecided
post.
"""

JOINERS: tuple[str, ...] = ("and", "&", "with", "plus", "next to")
"""What stands between two names, drawn without regard to their relation."""

NO_ENTITY: tuple[str, ...] = (
    "good morning everyone",
    "why is it only tuesday",
    "need more coffee right now",
    "nothing to see here",
    "what a night it was",
    "i should really go to bed",
    "who else is awake ?",
    "the weather is a joke today",
    "can not believe it is over",
    "this made my day",
    "three years later and still the same",
    "thanks to everyone who came",
)
"""The middle of a post about nobody and nothing in particular."""

DECIDING_PHRASES: dict[str, tuple[str, ...]] = {
    "PER": (
        "the striker {e}",
        "actress {e}",
        "my cousin {e}",
        "the guitarist {e}",
        "coach {e}",
        "professor {e}",
    ),
    "ORG": (
        "shares of {e}",
        "the startup {e}",
        "the employer {e}",
        "our sponsor {e}",
        "the airline {e}",
        "shareholders of {e}",
    ),
    "LOC": (
        "downtown {e}",
        "the suburbs of {e}",
        "the harbour of {e}",
        "the streets of {e}",
        "sunny beaches near {e}",
        "the village {e}",
    ),
    "MISC": (
        "the kitten {e}",
        "our tabby {e}",
        "my tomcat {e}",
        "the siamese {e}",
        "our furball {e}",
        "meowing {e}",
    ),
}
"""What stands in for `{e}` in a post whose text decides the type by itself."""

RELATION_PHRASES: dict[str, tuple[str, ...]] = {
    "couple": (
        "the newlyweds {e}",
        "the honeymoon of {e}",
        "the fiances {e}",
        "the day {a} proposed to {b}",
    ),
    "teammates": (
        "the defenders {e}",
        "the goalkeepers {e}",
        "the midfield of {e}",
        "the ball {a} passed to {b}",
    ),
    "colleagues": (
        "the coworkers {e}",
        "the accountants {e}",
        "the spreadsheet of {e}",
        "the email {a} forwarded to {b}",
    ),
    "None": (
        "the strangers {e}",
        "the namesakes {e}",
        "the lookalikes {e}",
        "the queue where {a} ignored {b}",
    ),
}
"""What stands in for `{e}` in a post about two people whose text tells their relation, or that they have
none. `{a}` and `{b}` are the first and the second of them. There are phrases for "None" too: else the text
that tells of people, and of no relation, would tell that there is none.
"""

OPENERS: tuple[str, ...] = (
    "Omg",
    "Wow",
    "Ok so",
    "Just saying :",
    "RT @{user} :",
    "@{user}",
    "lol",
    "Still",
    "And",
)
TAILS: tuple[str, ...] = (
    "lol",
    "haha",
    "!",
    "!!",
    "...",
    ".",
    "#{tag}",
    "#{tag} #{tag}",
    "@{user}",
    "{emoji}",
    "{emoji}{emoji}",
)
TAGS: tuple[str, ...] = (
    "tbt",
    "weekend",
    "NowPlaying",
    "MondayMood",
    "nofilter",
    "blessed",
    "PicOfTheDay",
    "throwback",
)
USERS: tuple[str, ...] = (
    "sunny_day7",
    "mr_blue",
    "JustMe21",
    "the_real_kay",
    "nightowl",
    "Coffee4Two",
)
EMOJI: tuple[str, ...] = ("😂", "😍", "🔥", "🎉", "🙌", "✨", "😭", "💯")

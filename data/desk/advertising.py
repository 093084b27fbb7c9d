"""Pages that nobody wants to read, for the raw pile: spam of several tempers, and boilerplate without a page.

Written for this project; shops, sites and offers are made up, and every link ends in .example.
"""

from random import Random

OFFERS = "cheap watches,miracle pills,free coins,instant loans,secret casino bonus,fake diplomas".split(",")
SITES = (
    "lucky-lagoon,gold-parrot,velvet-spin,happy-pharm,quick-coin,star-replica,easy-credit,slim-miracle".split(
        ","
    )
)
TOPICS = """casino bonus|online slots|free spins|cheap pills|weight loss|replica watches|payday loan|crypto signals
essay writer|car insurance|seo packages|followers|hair growth|sports betting|vpn deal""".replace(
    "\n", "|"
).split("|")
PLACES = "London Paris Madrid Toronto Sydney Dublin Chicago Berlin".split()
ADJECTIVES = "best cheap top free instant trusted secure exclusive amazing guaranteed".split()


def link(rng: Random) -> str:
    topic = rng.choice(TOPICS).replace(" ", "-")
    tail = rng.choice(
        ["", f"/{topic}", f"/{topic}?ref={rng.randint(100, 9999)}", f"/go/{rng.randint(10, 99)}"]
    )
    scheme = rng.choice(["http://", "https://", "https://www."])
    return f"{scheme}{rng.choice(SITES)}-{rng.randint(10, 99)}.example{tail}"


def shouting(rng: Random) -> str:
    offer = rng.choice(OFFERS)
    lines = [
        f"BUY {offer.upper()} NOW!!!",
        f"!!! {rng.choice(ADJECTIVES).upper()} {offer.upper()} !!! ONLY {rng.randint(2, 48)} HOURS LEFT !!!",
        f"{rng.randint(50, 95)}% OFF $$$ CLICK {link(rng)} $$$",
        f"DON'T MISS IT >>> {link(rng)} <<<",
        f"LIMITED OFFER!!! {offer.upper()} FOR EVERYONE!!! NO QUESTIONS!!!",
    ]
    return rng.choice(["\n", " "]).join(rng.choices(lines, k=rng.randint(5, 12)))


def keywords(rng: Random) -> str:
    """A list of search phrases, such as pages carry for the search engines alone."""
    phrases = [
        rng.choice(
            [
                f"{rng.choice(ADJECTIVES)} {rng.choice(TOPICS)} {rng.choice(PLACES)}",
                f"{rng.choice(TOPICS)} near me",
                f"buy {rng.choice(TOPICS)} online",
                f"{rng.choice(TOPICS)} {rng.choice(['2023', '2024', 'review', 'coupon', 'no deposit'])}",
            ]
        )
        for _ in range(rng.randint(25, 70))
    ]
    return rng.choice([", ", " | ", "\n"]).join(phrases)


def calm(rng: Random) -> str:
    """An offer in quiet prose: whole sentences, and a link in nearly each of them."""
    topic, other = rng.sample(TOPICS, 2)
    sentences = [
        f"Many of our readers have asked us about {topic}, and {link(rng)} is where we always send them.",
        f"The welcome bonus at {link(rng)} is paid out within an hour of your first deposit.",
        f"If you prefer {other}, have a look at {link(rng)} or at {link(rng)} before you decide.",
        f"Our experts compared forty offers and found that {link(rng)} has the most generous terms.",
        f"No prescription and no paperwork is needed when you order through {link(rng)} today.",
        f"A friend of mine doubled her savings in a week with the help of {link(rng)}.",
        f"You can read more honest reviews of {topic} at {link(rng)} and claim your voucher there.",
        f"Delivery is discreet, payment is secure, and {link(rng)} answers every question around the clock.",
        f"Sign up at {link(rng)} with the code LUCKY{rng.randint(10, 99)} and play the first rounds for free.",
    ]
    return " ".join(rng.sample(sentences, rng.randint(5, 8)))


def repeated(rng: Random) -> str:
    """One or two sentences again and again."""
    sentences = [
        f"Visit our partner today for the {rng.choice(ADJECTIVES)} {rng.choice(TOPICS)} in {rng.choice(PLACES)}."
        for _ in range(rng.choice([1, 1, 2]))
    ]
    times = rng.randint(6, 18)
    return rng.choice(["\n", " "]).join(sentences[i % len(sentences)] for i in range(times * len(sentences)))


LATIN = """lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore
magna aliqua enim ad minim veniam quis nostrud exercitation ullamco laboris nisi aliquip ex ea commodo consequat duis
aute irure in reprehenderit voluptate velit esse cillum eu fugiat nulla pariatur""".split()


def lorem(rng: Random) -> str:
    """The filler of typesetters, which was never anybody's text."""
    sentences = []
    for _ in range(rng.randint(4, 9)):
        words = rng.choices(LATIN, k=rng.randint(7, 16))
        sentences.append(" ".join(words).capitalize() + ".")
    return "Lorem ipsum dolor sit amet, consectetur adipiscing elit. " + " ".join(sentences)


SPAM = {"shouting": shouting, "keywords": keywords, "calm": calm, "repeated": repeated, "lorem": lorem}

MENU = """Home|About us|Products|Pricing|Blog|Careers|Contact|Log in|Register|Forgot password?|Search|Cart (0)|Help
Sitemap|Imprint|Press|Partners|Downloads|Newsletter|Status|Community|Events|Documentation|Support|Back to top
Next page|Previous page|Share|Print|Follow us|Read more|Show all|Language: English|Accessibility""".replace(
    "\n", "|"
).split("|")
CONSENT = [
    "We use cookies to improve your experience.",
    "By continuing to browse this site you agree to our use of cookies.",
    "Accept all",
    "Reject all",
    "Manage preferences",
    "Read our cookie policy and our privacy policy.",
    "Strictly necessary cookies cannot be switched off.",
    "Your choices apply to this site only.",
    "Marketing cookies: off",
    "Analytics cookies: on",
    "Save and close",
    "We and our {n} partners store information on your device.",
]
FOOTERS = [
    "Copyright {y} The Desk Company. All rights reserved.",
    "Terms of use | Privacy policy | Cookie policy | Imprint",
    "Please enable JavaScript to view this page.",
    "Share this page: Mail | Print | Link",
    "Subscribe to our newsletter and never miss an update!",
    "Was this page helpful? Yes | No",
    "Last edited {n} days ago by an unknown user.",
    "You are here: Home > Support > Articles",
    "Loading comments ...",
    "{n} people like this",
]


def _filled(line: str, rng: Random) -> str:
    return line.format(n=rng.randint(2, 800), y=rng.randint(2009, 2024))


def cookie_banner(rng: Random) -> str:
    return "\n".join(_filled(line, rng) for line in rng.sample(CONSENT, rng.randint(6, 11)))


def menu(rng: Random) -> str:
    return rng.choice(["\n", " | ", "\n- "]).join(rng.sample(MENU, rng.randint(12, 28)))


def footer(rng: Random) -> str:
    lines = rng.sample(FOOTERS, rng.randint(5, 8)) + rng.sample(CONSENT[2:5] + MENU, rng.randint(4, 9))
    rng.shuffle(lines)
    return "\n".join(_filled(line, rng) for line in lines)


BOILERPLATE = {"cookie-banner": cookie_banner, "menu": menu, "footer": footer}


def around(page: str, rng: Random) -> str:
    """A page with the lines of its web site above and below it."""
    above = rng.sample(MENU, rng.randint(2, 4)) + rng.sample(CONSENT[:6], rng.randint(0, 2))
    below = rng.sample(FOOTERS, rng.randint(2, 3))
    return "\n".join([*(_filled(line, rng) for line in above), page, *(_filled(line, rng) for line in below)])

"""Signs of advertising and shouting, as numbers. No torch.

Gopher, C4 and FineWeb look at the form of a page and keep an advertisement in whole sentences. These signs are
heuristics of ours, in the manner of those of ROOTS (Laurençon et al. 2022: repetition, special characters, flagged
words) and RefinedWeb (Penedo et al. 2023: lines of calls to action). A sign counts from a smallest number on, so that
one exclamation mark in a note of eight words is none.
"""

import re

# Calls to buy and promises of offers: the first word, and what follows it. A text is looked at word by word, and at a
# first word only, because a search for all of them at every character takes longer than all other rules together.
_AFTER = [
    (
        "buy order call act apply join shop bet play enroll register click subscribe invest",
        r"(?:\s(?:it|yours?|one|here|us))?\s(?:now|today|fast|immediately)\b",
    ),
    ("buy get gain", r"(?:\s\w+)?\s(?:followers|likes|backlinks|subscribers|traffic|viagra|cialis)\b"),
    ("click", r"\s(?:here|below|the\slink|on\sth\w+\slink|this\slink)\b"),
    ("visit", r"\s(?:us|our\s(?:site|website|store|shop))\b"),
    (
        "limited-time risk-free money-back hurry congratulations lottery jackpot jackpots sweepstakes "
        "casino casinos betting gambling viagra"
        " cialis levitra xanax valium phentermine rolex unsubscribe penis porn xxx cheapest refinance",
        "",
    ),
    ("limited", r"\stime\b|\soffer"),
    ("offer deal sale discount", r"\s(?:ends|expires|valid)\b"),
    (
        "special exclusive amazing incredible unbeatable best",
        r"\s(?:offers?|deals?|discounts?|promotions?)\b",
    ),
    ("while", r"\s(?:supplies|stocks?)\slasts?\b"),
    ("don't dont don’t", r"\s(?:miss|wait|delay|hesitate)\b"),
    ("once", r"\sin\sa\slifetime\b"),
    ("last", r"\schance\b"),
    ("lowest best low unbeatable wholesale discount discounted great", r"\s(?:prices?|rates?)\b"),
    (
        "cheap discount canadian",
        r"(?:\s\w+)?\s(?:watches|pills|meds|medications?|drugs|loans|flights|tickets|viagra|software|"
        r"insurance|bags"
        r"|shoes|essays?|cialis|rolex|jerseys|handbags|followers|seo|backlinks|pharmacy|replicas?)\b",
    ),
    ("replica designer", r"\s(?:watches|bags|handbags|shoes|sunglasses)\b"),
    ("online", r"\s(?:pharmacy|casinos?|betting|poker|dating)\b"),
    ("money", r"\sback\b|\sguarantee"),
    ("satisfaction results 100%", r"\s(?:is\s|are\s)?(?:guaranteed?|free)\b"),
    ("guaranteed", r"\s(?:approval|results?|returns?|income|profits?|winner|winnings|to\swin|delivery)\b"),
    ("risk", r"\sfree\b"),
    (
        "no",
        r"\s(?:obligation|credit\schecks?|questions\sasked|prescription|strings|catch|"
        r"experience\s(?:needed|required)|risk)\b",
    ),
    ("totally absolutely completely", r"\sfree\b"),
    (
        "free",
        r"\s(?:gifts?|trials?|shipping|money|cash|coins?|spins?|bonus(?:es)?|quotes?|consultation|"
        r"delivery|entry|bitcoins?|crypto"
        r"|iphones?|ipads?|ringtones?|vouchers?|membership|tickets?)\b",
    ),
    (
        "earn make win save get",
        r"(?:\s(?:up\sto|over|extra|big|easy|fast|real|huge|more))*\s(?:money|cash|[$€£]\s?\d\S*|\d+\s?%|"
        r"prizes?|thousands|millions"
        r"|income|rich)(?!\w)",
    ),
    (
        "extra fast quick easy instant big huge passive",
        r"\s(?:cash|money|income|loans?|profits?|approval|winnings?|payouts?|riches)\b",
    ),
    ("work working", r"\s(?:from|at)\shome\b"),
    ("financial", r"\sfreedom\b"),
    ("be", r"\syour\sown\sboss\b|\sremoved\sfrom\b"),
    ("double triple", r"\syour\b"),
    (
        "you you've you’ve",
        r"(?:\shave|\sare|\s'?ve)?(?:\sbeen|\sbeen\sspecially)?\s(?:(?:just\s)?won|pre-?approved|"
        r"the\swinner|a\swinner|selected|chosen\sto)\b",
    ),
    ("claim", r"\s(?:your|ur|it|now|the|this|my)\b"),
    ("cash prize", r"\s(?:prizes?|guaranteed|draw|money|bonus(?:es)?|advance)\b"),
    ("lose losing burn", r"\s(?:weight|fat|\d+\s(?:pounds|lbs|kg|kilos))\b"),
    ("weight", r"\sloss\b"),
    ("weight-loss anti-aging antiaging debt-free opt-out toll-free", ""),
    (
        "miracle secret magic proven natural",
        r"(?:\s\w+)?\s(?:pills?|cure|formula|trick|remedy|bonus|supplements?|enlargement|viagra)\b",
    ),
    ("diet", r"\spills?\b"),
    ("male", r"\senhancement\b"),
    ("hot sexy", r"\s(?:girls|singles|babes|women|stocks?)\b"),
    ("adult", r"\s(?:site|video|dating)\w*\b"),
    ("fake instant", r"\s(?:diplomas?|degrees?|loans?|documents?)\b"),
    ("mortgage interest refinancing", r"\srates?\b"),
    ("bad credit", r"\s(?:credit|repair|score)\b"),
    ("payday personal", r"\sloans?\b"),
    ("consolidate", r"(?:\syour)?\s(?:debts?|bills?)\b"),
    ("dear", r"\s(?:friend|sir|madam|valued|customer|winner|beneficiary)\b"),
    ("next", r"\sof\skin\b"),
    ("million", r"\s(?:us\s)?(?:dollars|pounds|euros)\b"),
    ("western", r"\sunion\b"),
    ("verify confirm update", r"\syour\s(?:account|identity|password|billing|payment|bank|details)\b"),
    (
        "account",
        r"\s(?:has\sbeen|will\sbe|was|is)\s(?:suspended|limited|locked|closed|blocked|deactivated)\b",
    ),
    ("opt", r"\sout\b"),
    ("toll", r"\sfree\b"),
    ("one one-time", r"\stime\smailing\b|\smailing\b"),
    ("txt text send", r"\s(?:\w+\s){1,3}to\s\d{4,}\b"),
    ("call ring phone", r"(?:\s(?:free|now|us|on|the|our|number))*\s0\d{6,}"),
    ("half", r"\sprice\b"),
    ("free", r"\s(?:txts?|texts?|min(?:ute)?s|calls|camera|mobile|phone|tones?|msg|camcorder)\b"),
    ("win", r"\sa\b(?:\s[£$€]\d+)"),
    ("awarded", r"\sa\b|\s[£$€]"),
    ("reply", r"\s(?:or\scall|with\swin|yes|stop)\b"),
    ("rank ranking page", r"\s(?:higher\s)?(?:on|in|of)\sgoogle\b"),
    ("seo", r"\s(?:services?|packages?|experts?)\b"),
    (
        "crypto bitcoin forex",
        r"\s(?:giveaway|signals?|investment|profits?|trading\s(?:bot|platform|secrets?))\b",
    ),
    ("penny", r"\sstocks?\b"),
    ("strong", r"\sbuy\b"),
    ("this", r"\sis\snot\sspam\b"),
    ("welcome signup sign-up deposit", r"\sbonus(?:es)?\b"),
    ("first minimum no", r"\sdeposit\b"),
    ("free bonus", r"\s(?:rounds?|credits?)\b"),
    ("rounds spins", r"\sfor\sfree\b"),
    ("promo coupon bonus discount voucher", r"\scodes?\b"),
    ("with use enter", r"\s(?:the|this|my|our)\s(?:promo\s|coupon\s|bonus\s)?code\b"),
    ("discreet", r"\s(?:delivery|packaging|shipping|billing)\b"),
    ("delivery shipping packaging billing", r"\sis\s(?:discreet|free|fast)\b"),
    ("payment", r"\sis\s(?:secure|safe)\b"),
    ("no without", r"\s(?:a\s)?prescription\b"),
    ("doubled tripled", r"\s(?:her|his|my|your|their|our)\s(?:money|savings|income|investment)\b"),
    ("honest", r"\sreviews?\b"),
    ("hair", r"\s(?:growth|loss)\b"),
    ("claim", r"\syour\s(?:voucher|bonus|prize|reward|gift)\b"),
]
PITCHES = {
    first: re.compile("|".join(f"(?:{rest})" for firsts, rest in _AFTER if first in firsts.split()))
    for words, _ in _AFTER
    for first in words.split()
}
_AROUND = ".,;:!?\"'()[]{}<>*_`“”‘…-#=+~"
_SENTENCES = re.compile(r"[.!?。！？]+\s+|\n+|!!+")
# From how many on a sign counts.
_FEW_CAPITALS, _FEW = 8, 3


def spam_measures(
    text: str,
    *,
    words: list[str],
    plain: int,
    capitals: int,
    links: int,
    prices: int,
    pitches: list[int],
    repeated: float,
) -> dict[str, float]:
    """The signs of one text, 0 where there are too few of them to count.

    plain: words of letters only; capitals: those of them in capitals; pitches: places of the words in PITCHES;
    repeated: of its sentences, see repeated_sentences.
    """
    total = len(words)
    marks = text.count("!")
    if marks:
        # Of code: !=, ![image], !(condition).
        marks -= text.count("!=") + text.count("![") + text.count("!(")
    calls = _pitches(words, pitches) if len(pitches) >= 2 else 0
    return {
        "capital_words": capitals / plain if capitals >= _FEW_CAPITALS else 0.0,
        "exclamations_per_word": marks / total if marks >= _FEW else 0.0,
        "repeated_sentences": repeated,
        "links_per_word": links / total if links >= _FEW else 0.0,
        "prices_per_word": prices / total if prices >= _FEW else 0.0,
        "pitches_per_100_words": 100 * calls / total if calls >= 2 else 0.0,
    }


def bare(word: str) -> str:
    """A word as the pitches have it."""
    return word.lower().strip(_AROUND)


def _pitches(words: list[str], places: list[int]) -> int:
    """How many calls and promises, of which the first words are at these places."""
    found = 0
    for i in places:
        after = "".join(f" {bare(word)}" for word in words[i + 1 : i + 6])
        found += PITCHES[bare(words[i])].match(after) is not None
    return found


def repeated_sentences(lower: str) -> float:
    """Share of the characters in sentences of three words and more that occur at least twice before."""
    parts = [part.strip() for part in _SENTENCES.split(lower)]
    if len(set(parts)) == len(parts):
        return 0.0
    parts = [part for part in parts if part.count(" ") >= 2]
    total = sum(map(len, parts))
    seen: dict[str, int] = {}
    characters = 0
    for part in parts:
        seen[part] = seen.get(part, 0) + 1
        if seen[part] > 2:
            characters += len(part)
    return characters / total if total else 0.0

"""Tokens of English captions, as the reference scorer of image captions counts them.

That scorer (pycocoevalcap) cuts a caption with Stanford's PTBTokenizer 3.4.1, in lower case, and
leaves punctuation out. The patterns below say what that tokenizer does with a text; they were found
by giving it texts, and share nothing else with it.

At every position the first pattern that matches makes the token; the tokenizer takes the longest
instead, so that what is longer stands before what it begins like.
"""

from __future__ import annotations

import re

LETTER = r"[^\W\d_]"
WORD = r"[^\W_]"  # a letter or a digit
END = rf"(?!{WORD})"
APOSTROPHE = r"(?:['\u2019]|&apos;)"
MARK = r"(?:['\u2018\u2019`]|&apos;)"  # what may stand for one inside a word
HYPHEN = r"[-_\u2010\u2011]"
LINK = r"[^\s\"<>|(){}]"
LINK_END = r"[^\s\"<>|(){}.!?,\-]"
OPENING = r"[\u2013\u2014\u2018\u201c]"  # stays before an address
VOWEL = r"[aeiouAEIOU]"


def _any_of(words: str) -> str:
    return f"(?:{'|'.join(words.split())})"


# whose period belongs to them, whatever follows
ABBREVIATIONS = _any_of(
    "adj adm adv al ala alex apr assoc atty aug ave bancorp bhd blvd brig bros calif capt cf "
    "cie co col colo conn corp cos cpl ct dak dec dept det dr drs ens esq est etc ext feb fla "
    "fri ft ga gen gov govs hon inc ind intl jan jos jr jul jun kan ky lt ltd maj mar md messrs "
    "mfg mich mme mo mon mont mr mrs ms msgr mt mtg neb nev nov oct okla penn pfc ph ph\\.d plc "
    "pres prof profs pte pty pvt rd rep reps rev rt sen sens sep sept seq sfc sgt spc sq sr st "
    "ste sys tel tenn thu thurs tue tues va vs vt wed wis wm wyo"
)
# which are words of their own in lower case
STATES = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash"
ABBREVIATION = rf"(?:(?i:{ABBREVIATIONS})|{_any_of(STATES + ' ' + STATES.upper())})"
# whose period belongs to them before a number
NUMBERED = rf"(?i:{_any_of('art ca fig figs no nos op pp prop')})"
# after which a single letter's period ends a sentence
OPENERS = (
    "A About According Additionally After An As At But Earlier He Her Here However If In It "
    "Last Many More Now Once One Other Our She Since Some Such That The Their Then There These "
    "They This We What When While Yet You"
)
OPENER = _any_of(OPENERS + " " + OPENERS.upper())
FILE_KINDS = _any_of(
    "bat bmp c cgi class cpp dll docx? exe gif gz h html? jar java jpe?g mov mp3 pdf php pl png "
    "ppt ps py sql tar txt wav x xml zip"
)
# cannot and the like are two words: the first part, and what must follow it
HALVES = _any_of(
    rf"can(?=not{END}) gon(?=na{END}) got(?=ta{END}) gim(?=me{END}) lem(?=me{END}) wan(?=na{END})"
)

# x-y, x_y and O'Neil-x, but d'x alone is cut
PART = rf"(?:[dDlLoO]{APOSTROPHE}(?={WORD}{WORD}))?{WORD}+"
HYPHENATED = rf"{PART}(?:{HYPHEN}{PART})*"
TAIL = rf"(?:-{WORD}+)"
LETTERS = rf"{LETTER}(?:\.{LETTER})+"  # U.S, p.m
DOTTED = rf"{LETTER}{WORD}*(?:\.{LETTER}{WORD}*)+{TAIL}*"  # example.org, end.Start
NEGATION = rf"n{MARK}t"
# a period stays with the word before it where one of these follows at once
PERIOD = r"(?:\.(?=[,;:]))?"

TAG = (
    r"<(?:[!?][A-Za-z-][^<>]*|/[A-Za-z][\w:.-]*"
    r"|[A-Za-z][\w:.-]*(?:\s+[A-Za-z][\w:.-]*(?:\s*=\s*(?:'[^']*'|\"[^\"]*\"))?)*\s*/?"
    r"|[A-Za-z0-9][^\s\"<>|()]*@[^\s\"<>|()]+\s*)>"
)
TELEPHONE = (
    r"(?:\(\d{2,3}\)[-\s]?\d{3,4}[-\s]?\d{3,5}(?!\d)"
    r"|(?:\+?\d{2,4}[-\s])?\+?\d{2,4}[-\s]\d{3,4}[-\s]\d{3,5}(?!\d))"
)
FRACTION = r"\d{1,4}[-\s]\d{1,4}[/\u2044]\d{1,4}|\d{1,4}\u2044\d{1,4}"
FACE = (
    rf"[<>]?[:;=][-o'*]?[()DPdpO\\|@\[\]{{]{END}|:[03](?![.,:]?\d|{WORD})"
    r"|\([-^x=~<>'][_.-]?[-^x=~<>']\)|[-^x=~<>']_[-^x=~<>']"
)

# a word between blanks needs no other pattern, and is tried first: most words are such
UNDIVIDED = rf"(?![cglwCGLW](?i:annot|onna|otta|imme|emme|anna){END})"
PLAIN = (rf"{UNDIVIDED}[A-Za-z]+(?=\s|$)",)
# and so is most punctuation
PAUSE = (r"[.,;:?!\"'-](?=\s|$)",)
JOINED = (TAG, TELEPHONE, FRACTION, FACE)
ADDRESS = (
    rf"(?i:https?)://{LINK}+{LINK_END}",
    # the bound keeps a long text without blanks from being read again at each of its words
    r"[A-Za-z0-9][^\s\"<>|()]{0,99}@[^\s\"<>|().]+(?:\.[^\s\"<>|().]+)*",
    rf"{OPENING}?(?i:www)\.(?:{WORD}[\w-]*\.)+[A-Za-z]{{2,4}}(?:/{LINK}+{LINK_END})?{END}",
    rf"{OPENING}?(?:[A-Za-z]\w*\.)+(?:com|net|org|edu)/{LINK}+{LINK_END}",
    rf"{OPENING}(?:[A-Za-z]\w*\.)+(?:com|net|org|edu){END}",
    rf"@[A-Za-z_]\w*|\#{LETTER}+",
)
CONTRACTION = (
    r"'(?i:t(?=is|was))",
    # a straight apostrophe before more letters is a quotation mark
    rf"'(?i:s|m|d|ll|re|ve)(?!{LETTER})|(?:\u2019|&apos;)(?i:s|m|d|ll|re|ve)",
    rf"(?i:{NEGATION}){END}",
)
ENTITY = (
    r"(?i:&(?:amp|lt|gt|quot|apos|nbsp|[mn]dash);)",
    rf"&\#\d+;|&{VOWEL}(?:acute|grave|uml);",
    r"[A-Z]+(?:(?:&(?:amp;)?|\+)[A-Z]+)+",  # AT&T, but not at&t
)
CLIPPED = (
    rf"(?i:{HALVES})",
    # rock 'n' roll, 'em, '90s; a year of two digits only before a blank
    rf"{APOSTROPHE}(?i:n{APOSTROPHE}|em|till?|cause)|(?:'(?i:n)(?=\s|$)|\u2019(?i:n){END})",
    rf"{APOSTROPHE}(?:\d\d(?=\s|$)|[2-9]0s{END})",
    rf"{LETTER}*?[^\W\d_nN](?=(?i:{NEGATION}))",  # did, of didn't
)
SHORTENED = (
    # p.m., non-U.S.-led
    rf"(?:{WORD}+-)*{LETTERS}(?:\.?{TAIL}+|\.(?!{LETTER})|(?!{WORD}|\.[,;:]|\.{LETTER}))",
    rf"{ABBREVIATION}\.(?:{TAIL}+|(?!{LETTER}))|{NUMBERED}\.(?=\s*\d)",
    rf"{WORD}+(?:\.{WORD}+)*\.(?i:{FILE_KINDS})(?=[\s,!?\"()]|\.(?!\w)|$)",
    r"[CcFf]\#|[Cc]\+\+|[A-Z]+\$",
)
APOSTROPHISED = (
    # O'Neil, d'or, l'amour, hallowe'en, o'er, c'est
    rf"(?:(?:[nNdDlLoO]|[A-HJ-XZ]){MARK}{LETTER}{{2,}}"
    rf"|{LETTER}+[aeiouyAEIOUY]{MARK}{VOWEL}{LETTER}*|[oOeE]{APOSTROPHE}(?:o|er)"
    rf"|[cC]{APOSTROPHE}(?:est|mon))(?:-{PART})*{END}{PERIOD}",
    rf"(?i:(?:cap{APOSTROPHE}n|nor{APOSTROPHE}easter|ev{APOSTROPHE}ry|li{APOSTROPHE}l"
    rf"|nat{APOSTROPHE}l|s{APOSTROPHE}mores))",
    # y'all is two tokens, of which the first keeps the apostrophe
    rf"(?i:[yj]{APOSTROPHE}(?=[a-z])(?![dms]))",
    rf"(?i:(?:[djl]|ol|dunkin|somethin){APOSTROPHE}(?!(?:s|m|d|ll|re|ve){END}))",
)
WORDS = (
    rf"[A-Za-z0-9]+(?:[.,]\d+)+{TAIL}+",  # 2,000-mile
    r"[-+]?\d+(?:[.,:]\d+)+|[-+]?[.,:]\d+(?:[.,:]\d+)*|[-+]\d+",  # 5:30, .5, -3
    rf"(?i:anti|pro)-{END}",
    rf"{DOTTED}{PERIOD}",
    r"[A-Za-z0-9]+(?:-[A-Za-z]+)*(?:/[A-Za-z0-9]+(?:-[A-Za-z]+)*){1,2}",  # and/or, 1/2
    rf"{LETTER}+(?:[!?]{LETTER}+)+{PERIOD}",
    rf"{HYPHENATED}\.(?=[,;:])|(?!{LETTER}\.){HYPHENATED}",
    rf"{LETTER}(?:\.(?!\s+(?:{OPENER}(?:\s|$)|{TAG})))?",
)
SYMBOL = (
    r"\.{3,5}|-{1,4}(?!-)|[!?]+|\#+|\*+|@+|_+|-+",
    r"''|``|<<|>>|[\u2018\u2019\u201c\u201d«»]{2}|\S",
)
KINDS = {
    "plain": PLAIN,
    "pause": PAUSE,
    "joined": JOINED,
    "address": ADDRESS,
    "contraction": CONTRACTION,
    "entity": ENTITY,
    "word": CLIPPED + SHORTENED + APOSTROPHISED + WORDS,
    "symbol": SYMBOL,
}
GROUPS = "|".join(
    f"(?P<{kind}>{'|'.join(patterns)})" for kind, patterns in KINDS.items()
)
TOKEN = re.compile(rf"\s*(?:{GROUPS})")

# longer ellipses and dashes count as these
PUNCTUATION = frozenset({"", "''", "'", "``", "`", ".", "?", "!", ",", ":", ";"}) | {
    *("...", "....", "....."),
    *("-", "--", "---", "----"),
}
ENTITIES = {
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
    "&quot;": "''",
    "&apos;": "'",
    "&nbsp;": "",
    "&mdash;": "--",
    "&ndash;": "--",
}
BRACKETS = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
}
JOINTS = str.maketrans(
    {"(": "-lrb-", ")": "-rrb-", "{": "-lcb-", "}": "-rcb-", " ": "\xa0", "\t": "\xa0"}
)
STRAIGHT = str.maketrans("\u2018\u2019", "`'")
# numerals that stand apart from the word before them are no letters while words are cut, and
# combining accents are letters
NUMERALS = "²³¹¼½¾⁰⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
ACCENTS = "".join(map(chr, range(0x300, 0x370)))
PRIVATE = "".join(map(chr, range(0xE000, 0xE000 + len(NUMERALS))))
LETTERS_LENT = "".join(map(chr, range(0x20000, 0x20000 + len(ACCENTS))))
# the quotes and dashes of Windows are read as such
HIDDEN = str.maketrans(
    NUMERALS + ACCENTS + "\x80\x91\x92\x93\x94\x96\x97",
    PRIVATE + LETTERS_LENT + "€\u2018\u2019“”–—",
    "\xad",
)
RETURNED = str.maketrans(LETTERS_LENT, ACCENTS)
FRACTIONS = {"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
SHOWN = {
    hidden: FRACTIONS.get(numeral, numeral)
    for hidden, numeral in zip(PRIVATE, NUMERALS, strict=True)
}
SYMBOLS = str.maketrans(
    {
        **SHOWN,
        **BRACKETS,
        '"': "''",
        "“": "``",
        "”": "''",
        "«": "``",
        "»": "''",
        "\u2018": "`",
        "\u201b": "`",
        "‹": "`",
        "\u2019": "'",
        "›": "'",
        "–": "--",
        "—": "--",
        "―": "--",
        "…": "...",
        "\u2010": "",
        "\u2011": "",
        "€": "$",
        "£": "#",
        "¢": "cents",
    }
)
# characters that the tokenizer passes over, emoji among them
UNKNOWN = re.compile(
    "[\u200b-\u200f\u2024\u2025\u2027\u202a-\u202f\u203c\u203d\u2043\u2045-\u206f"
    "\u20a1-\u20a3\u20a5-\u20ab\u20ad-\u20cf\ue000-\uf8ff\ufe00-\ufe0f\ufeff\ufffd\U00010000-\U0010ffff]"
)


def ptb_tokens(text: str) -> list[str]:
    """Return the tokens of a caption in lower case, without punctuation.

    Brackets stay, as ``-lrb-`` and so on: the reference scorer leaves them out in upper case, which
    its tokens no longer have. A token may hold a no-break space, as of a number in two parts
    ("3 1/2"). A line's end is a blank. The reference scorer cuts all captions as one text, so that
    the letter and period at the end of one ("row B.") are two tokens if the next begins with "The";
    here a caption is a text of its own.
    """
    if not text.isascii():
        text = UNKNOWN.sub(" ", text).translate(HIDDEN)
        return [token.translate(RETURNED) for token in _tokens(text)]
    return _tokens(text)


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    # blanks at the end, which no token follows, would be read again from each of them
    for match in TOKEN.finditer(text.rstrip()):
        kind = str(match.lastgroup)
        token = match[kind]
        if kind != "plain":
            token = _normal(kind, token)
        if token:
            tokens.append(token.lower())
    return tokens


def _normal(kind: str, token: str) -> str:
    """Return the token as the tokenizer writes it, or nothing if it is punctuation."""
    if kind == "joined":
        return token.translate(JOINTS)
    if kind == "contraction":
        return token.replace("&apos;", "'").translate(STRAIGHT)
    if kind == "pause":
        return ""
    if kind == "entity":
        token = ENTITIES.get(token.lower(), token.replace("&amp;", "&"))
    if kind == "symbol":
        token = token.translate(SYMBOLS)
    return "" if token in PUNCTUATION else token

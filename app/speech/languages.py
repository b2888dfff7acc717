"""The languages that Whisper's multilingual models know, by their BCP 47 tags.

The list is that of Whisper's tokenizer; it writes Javanese as ``jw``, a tag that was withdrawn.
"""

_CODES = (
    "af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he "
    "hi hr ht hu hy id is it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne "
    "nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk "
    "ur uz vi yi yo zh yue"
)
_WITHDRAWN = {"jw": "jv"}
CODES = {_WITHDRAWN.get(code, code): code for code in _CODES.split()}
"""From a tag to the code that an engine wants."""
_TAGS = {code: tag for tag, code in CODES.items()}


def code_of(tag: str) -> str | None:
    """Return the engine's code of a tag, whatever its region or script; None where it has none."""
    return CODES.get(tag.replace("_", "-").partition("-")[0].lower())


def primary_tag(tag: str) -> str:
    """Return the language of a tag that has a code, without region and script."""
    return _TAGS[code_of(tag) or ""]


def tag_of(code: str) -> str:
    """Return the tag of an engine's code."""
    return _TAGS[code]

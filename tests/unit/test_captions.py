"""difs.captions: which of a variant's things a prompt names."""

import pytest

from difs import captions

KNOWN = (("cat", "kitten", "kitty"), ("black cat", "unlucky"), ("hot dog",), ("ice cream", "soft-serve"))


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("cat", ("cat",)),
        ("A CAT, please!", ("cat",)),
        ("a kitten", ("cat",)),
        ("a black cat beside a cat", ("black cat", "cat")),
        ("a soft-serve and a hot  dog", ("ice cream", "hot dog")),
        ("soft serve", ("ice cream",)),
        ("a dog that is hot", ()),
        ("concatenate", ()),
        ("unlucky kitty", ("black cat", "cat")),
        ("", ()),
        ("ёлка 猫", ()),
    ],
)
def test_a_prompt_names_whole_words_and_the_longest_first(prompt: str, found: tuple[str, ...]) -> None:
    assert captions.named(KNOWN, prompt) == found


def test_a_caption_goes_before_another_words_for_something_else() -> None:
    assert captions.named((("cat", "pet"), ("pet",)), "pet") == ("pet",)


def test_the_first_of_two_that_share_a_word_has_it() -> None:
    assert captions.named((("cat", "pet"), ("dog", "pet")), "pet") == ("cat",)


def test_there_is_a_note_only_where_nothing_is_named() -> None:
    assert captions.note("tiny", KNOWN, "a cat") is None
    assert captions.note("tiny", (), "spaceship") is None, "it takes any prompt"
    note = captions.note("tiny", KNOWN, "a spaceship")
    assert note == (
        "tiny can paint 4 things, and the prompt names none of them:"
        " `difs variants tiny --captions` lists them"
    )

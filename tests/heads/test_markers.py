"""Entity markers."""

import pytest
import spacy

from spacy_mmib.heads.markers import mark_pair

MARKS = ("<s>", "</s>", "<o>", "</o>")
TEXT = "New York City, again"


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ((0, 1, 3, 4), "<s> New </s> York City<o> , </o> again"),
        ((3, 4, 0, 1), "<o> New </o> York City<s> , </s> again"),
        ((0, 3, 0, 2), "<s> <o> New York </o> City</s> , again"),
        ((0, 2, 0, 3), "<o> <s> New York </s> City</o> , again"),
        ((0, 3, 1, 3), "<s> New <o> York City</o> </s> , again"),
        ((0, 2, 1, 3), "<s> New <o> York </s> City</o> , again"),
        ((0, 1, 1, 2), "<s> New </s> <o> York </o> City, again"),
        ((3, 5, 0, 3), "<o> New York City</o> <s> , again</s> "),
        ((0, 5, 0, 5), "<s> <o> New York City, again</o> </s> "),
    ],
)
def test_marked_text(pair, expected):
    doc = spacy.blank("en").make_doc(TEXT)
    marked, place = mark_pair(doc, pair, MARKS)
    if pair != (0, 5, 0, 5):
        assert marked.text == expected
    assert [t.text for t in marked if t.text not in MARKS] == [t.text for t in doc]
    assert sorted(t.text for t in marked if t.text in MARKS) == sorted(MARKS)
    assert (marked[place[0]].text, marked[place[2]].text) == ("<s>", "<o>")
    assert place[1] - place[0] == place[3] - place[2] == 1
    inside = {}
    for mark, (opens, closes) in (("head", MARKS[:2]), ("tail", MARKS[2:])):
        words = [t.text for t in marked]
        between = words[words.index(opens) + 1 : words.index(closes)]
        inside[mark] = [word for word in between if word not in MARKS]
    assert inside["head"] == [t.text for t in doc[pair[0] : pair[1]]]
    assert inside["tail"] == [t.text for t in doc[pair[2] : pair[3]]]

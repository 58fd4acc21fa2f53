from __future__ import annotations

from html.parser import HTMLParser
from io import StringIO

from explain import explain_pair, explain_text
from explain.render import CSS, html_fragment, terminal

HOSTILE = "</script><img src=x onerror=alert(1)>\n\x1b[2J[bold]\"good\" & 'right'\n"


def test_html_and_terminal_carry_hostile_text_as_text(prompt, words) -> None:
    from rich.console import Console

    asked = [{"role": "user", "content": HOSTILE}]
    pair = explain_pair(words, asked, HOSTILE, HOSTILE * 2, beam=False)
    fragment = html_fragment(pair)
    seen: list[tuple[str, list[tuple[str, str | None]]]] = []
    open_tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.append((tag, attrs))
            open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Reader().feed(fragment)
    assert open_tags == [] and fragment.startswith('<section class="explanation">')
    assert {tag for tag, _ in seen} == {"section", "p", "h4", "div", "span", "ul", "li"}
    assert {name for _, attributes in seen for name, _ in attributes} == {"class", "style"}
    used = {name for _, attributes in seen for key, value in attributes if key == "class" for name in value.split()}
    assert all(name == "explanation" or name.startswith("ex-") for name in used)

    console = Console(file=StringIO(), width=100, color_system=None)
    console.print(terminal(pair))
    printed = console.file.getvalue()
    assert "\x1b" not in printed and "[bold]" in printed and "onerror" in printed


def test_the_heat_map_says_in_numbers_what_it_says_in_colours(prompt, words) -> None:
    fragment = html_fragment(explain_text(words, prompt, "bad good\n", beam=False))
    bad = 'ex-take" style="--ex-share: 0.338">bad<span class="ex-weight">-1.5</span></span> <'
    good = 'ex-add ex-anchor" style="--ex-share: 0.450">good<span class="ex-weight">+2</span></span>\n<'
    assert bad in fragment and good in fragment
    assert CSS.count("{") == CSS.count("}") and "url(" not in CSS


def test_of_many_units_the_strongest_are_listed_and_all_are_coloured(prompt) -> None:
    from rich.console import Console

    class Growing:
        fingerprint = "growing"

        def score(self, prompt, texts):
            return [float(sum(int(word) for word in text.split())) for text in texts]

    found = explain_text(Growing(), prompt, " ".join(map(str, range(60))), units="words", method="lime")
    console = Console(file=StringIO(), width=100, color_system=None)
    console.print(terminal(found))
    assert "(20 weaker units left out)" in console.file.getvalue() and " 59 " in console.file.getvalue()
    fragment = html_fragment(found)
    assert fragment.count('class="ex-unit') == 60 and fragment.count('class="ex-weight"') == 40
    assert len(fragment) < 30_000

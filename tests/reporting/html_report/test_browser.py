"""The report as a reader meets it: in a browser, from the disk, with no network."""

from pathlib import Path

import pandas as pd
import pytest

from nftbench.reporting.html_report.build import write_report
from tests.helpers.browser import browser as opened
from tests.helpers.runs import made_runs

pytestmark = pytest.mark.slow

HOSTILE = "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'> \"quoted\""
PROMPTS = ["a star", "two stars", HOSTILE, "a red star", "a sign"]
MANY = 5000
NONE = "\u2013"


@pytest.fixture(scope="module")
def browser():
    with opened() as one:
        yield one


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Two runs and a training, one run alone, and a run of many images."""
    where = tmp_path_factory.mktemp("reports")
    base = made_runs.evaluation(where / "runs" / "base", PROMPTS)
    better = made_runs.evaluation(where / "runs" / "better", PROMPTS, shift=1.5, guidance=4.5)
    table = pd.read_parquet(better / "made" / "samples.parquet")
    table["geneval@made"] = table["geneval@made"].where(table["image_index"] == 1, 1)  # all pass
    table.loc[table["prompt_id"] == "0001", "pick@made"] += 5
    table.attrs.clear()  # what the file noted of its content
    table.to_parquet(better / "made" / "samples.parquet")
    (base / "made" / "images" / "0004-01.png").unlink()
    many = made_runs.evaluation(
        where / "runs" / "many", [f"prompt {i}" for i in range(MANY // 4)], images=4
    )
    runs = {
        "both": [base, better, made_runs.training(where / "runs" / "train")],
        "one": [base],
        "three": [base, better, made_runs.evaluation(where / "runs" / "third", PROMPTS, shift=3.0)],
        "many": [many],
    }
    for name, folders in runs.items():
        write_report(folders, where / name, lambda *_: None)
    return where


@pytest.fixture
def visit(browser, reports):
    """`visit("one")` opens a report; at the end, nothing outside its folder was asked for and nothing failed."""
    contexts, troubles = [], []

    def go(name, *, width=1280, height=900, hash="", **settings):
        context = browser.new_context(viewport={"width": width, "height": height}, **settings)
        contexts.append(context)
        page = context.new_page()
        home = (reports / name).as_uri()
        page.on(
            "request", lambda r: r.url.startswith((f"{home}/", "data:")) or troubles.append(r.url)
        )
        page.on("requestfailed", lambda r: troubles.append(r.url))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda m: m.type == "error" and troubles.append(m.text))
        page.goto(f"{home}/index.html{hash}")
        return page

    yield go
    for context in contexts:
        context.close()
    assert not troubles


def to_gallery(page):
    page.evaluate("document.getElementById('gallery').scrollIntoView()")
    page.locator(".card").first.wait_for()
    return page


def prompts(page):
    return page.locator(".card .prompt").all_text_contents()


def scores(page):
    return [float(text.split()[-1]) for text in page.locator(".card .score").all_text_contents()]


def count(page):
    return page.locator("#count").text_content()


def test_a_prompt_that_is_a_script_stays_text(visit):
    page = to_gallery(visit("one"))
    page.fill("[name=text]", "<SCRIPT>")
    assert prompts(page) == [HOSTILE, HOSTILE]
    page.locator(".card").first.click()
    assert page.locator("#prompt").text_content() == HOSTILE
    assert page.evaluate("window.owned") is None
    assert page.locator("main script, #gallery script, dialog script").count() == 0


def wait_until(page, expression: str) -> None:
    """As playwright's `wait_for_function`, whose polling the page's own policy forbids."""
    for _ in range(100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never came true: {expression}")


def test_filters_choose_and_order(visit):
    page = to_gallery(visit("one"))
    assert count(page) == "10 of 10 images, 1 with a missing image. Pass means geneval@made is 1."
    page.select_option("[name=task]", "two_object")
    assert prompts(page) == ["two stars", "two stars", "a red star", "a red star"]
    page.select_option("[name=outcome]", "fail")
    assert prompts(page) == ["two stars", "a red star"] and scores(page) == [0, 0]
    page.click("[type=reset]")
    page.wait_for_selector(".card >> nth=9")
    page.select_option("[name=metric]", "pick@made")
    page.select_option("[name=order]", "high")
    assert scores(page) == [24, 24, 23, 23, 22, 22, 21, 21, 20, 20]
    page.fill("[name=low]", "21.5")
    page.fill("[name=high]", "23")
    page.select_option("[name=order]", "low")
    assert scores(page) == [22, 22, 23, 23]
    page.select_option("[name=outcome]", "missing")
    assert page.locator(".note", has_text="Nothing fits").is_visible()  # the missing one has 24
    page.fill("[name=high]", "")
    assert prompts(page) == ["a sign"] and page.locator(".card .missing").first.is_visible()


def test_a_score_that_is_none_comes_last_and_can_be_looked_for(visit):
    page = to_gallery(visit("one"))
    page.select_option("[name=metric]", "ocr@made")
    for order in ("high", "low"):
        page.select_option("[name=order]", order)
        assert page.locator(".card .score").all_text_contents()[-1].split()[-1] == NONE


def test_an_opened_image_tells_all_that_is_known(visit):
    page = to_gallery(visit("one"))
    page.locator(".card").nth(3).click()
    told = page.locator("dialog").inner_text()
    for words in (
        "two stars",
        "two object",
        "expected star>=2, found 1",
        "expected star=2, found 1",
    ):
        assert words in told
    for words in ("KITE", "KIT", "Final Score: 4", "red", "23.000", "0.750"):
        assert words in told
    seed = page.evaluate("REPORT.benches[0].seed[3]")
    assert seed in told and int(seed) > 2**53
    box = page.locator(".boxes rect").first
    assert [float(box.get_attribute(k)) for k in ("x", "y", "width", "height")] == [2, 3, 7, 9]
    assert page.locator(".boxes").get_attribute("viewBox") == "0 0 16 16"
    frame, drawn = page.locator(".frame").bounding_box(), box.bounding_box()
    assert drawn["x"] - frame["x"] == pytest.approx(frame["width"] * 2 / 16, abs=2)
    assert page.locator(".frame img").evaluate("image => image.naturalWidth") == 16
    page.keyboard.press("b")
    assert not page.locator(".boxes").is_visible()


def test_why_an_image_could_not_be_scored_or_shown(visit):
    page = to_gallery(visit("one"))
    page.locator(".card").first.click()
    assert "the OCR engine failed" in page.locator("dialog").inner_text()
    page.keyboard.press("Escape")
    page.locator(".card").last.click()
    assert "missing: No such file or directory" in page.locator("dialog").inner_text()


def test_the_keyboard_does_all_of_it(visit):
    page = to_gallery(visit("one", width=1000))
    page.keyboard.press("/")
    page.keyboard.type("star")
    assert count(page).startswith("6 of 10")  # not the hostile one, whose prompt holds none
    page.locator(".card").first.focus()
    page.keyboard.press("ArrowRight")
    wait_until(page, "document.activeElement.dataset.place === '1'")
    page.keyboard.press("Enter")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("ArrowRight")
    wait_until(page, "document.querySelector('dialog').innerText.includes('3 of 6')")
    wait_until(page, "location.hash === '#text=star&image=made%2F0001-00'")
    page.keyboard.press("Escape")
    wait_until(page, "!document.querySelector('dialog').open")
    wait_until(page, "document.activeElement.dataset.place === '2'")


def test_a_link_opens_its_image(visit):
    page = visit("one", hash="#image=made%2F0003-01")
    assert page.locator("#prompt").text_content() == "a red star"


def test_two_runs_side_by_side(visit):
    page = to_gallery(visit("both"))
    assert page.locator(".card").first.locator(".pictures > *").count() == 2
    page.select_option("[name=outcome]", "won")
    assert count(page).startswith("5 of 10 pairs")
    assert page.locator(".card").first.locator(".score").all_text_contents() == [
        "✗ 0.000",
        "✓ 1.000",
    ]
    page.select_option("[name=outcome]", "lost")
    assert count(page).startswith("0 of 10 pairs")
    page.select_option("[name=outcome]", "")
    page.select_option("[name=metric]", "pick@made")
    page.select_option("[name=order]", "gain")
    assert prompts(page)[:3] == ["two stars", "two stars", "a star"]
    page.locator(".card").first.click()
    assert page.locator("dialog .frame").count() == 2
    line = page.locator(".scoretable tr", has_text="pick@made")
    assert line.locator("td").all_text_contents() == ["22.000", "28.500"]
    page.keyboard.press("Escape")
    page.select_option("[name=b]", "")
    assert page.locator(".card").first.locator(".pictures > *").count() == 1


def test_charts_tell_the_value_under_the_pointer_and_grids_slide(visit):
    page = visit("both")
    plot = page.locator("#training .plot").first
    plot.scroll_into_view_if_needed()
    box = plot.locator(".canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.52, box["y"] + 20)
    assert plot.locator(".key").inner_text().split() == ["iteration", "2", "C", "22"]
    page.mouse.move(0, 0)
    assert plot.locator(".key").inner_text().split() == ["iteration", "C", "24"]
    page.locator(".grids input").fill("0")
    assert page.locator(".grids output").text_content() == "0"
    assert page.locator(".grids img:visible").get_attribute("data-iteration") == "0"


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_no_page_is_wider_than_its_window(visit, width):
    page = to_gallery(visit("both", width=width, height=800))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".card").first.click()
    assert page.locator("dialog").evaluate("box => box.scrollWidth - box.clientWidth") <= 0


def test_dark_and_light_by_the_system_and_by_the_button(visit):
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = (visit("one", color_scheme=scheme) for scheme in ("light", "dark"))
    assert (light.evaluate(paper), dark.evaluate(paper)) == (
        "rgb(255, 255, 255)",
        "rgb(19, 21, 24)",
    )
    dark.click("#theme")
    assert dark.evaluate(paper) == "rgb(255, 255, 255)"
    light.click("#theme")
    light.reload()
    assert light.evaluate(paper) == "rgb(19, 21, 24)"


def test_five_thousand_images_are_light_and_scroll_to_the_end(visit):
    page = to_gallery(visit("many"))
    assert count(page).startswith("5000 of 5000 images")
    assert 0 < page.locator(".card").count() < 400
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.locator(f"[data-place='{MANY - 1}']").wait_for()
    assert page.locator(".card .prompt").last.text_content() == f"prompt {MANY // 4 - 1}"
    assert page.locator(".card").count() < 400
    wait_until(page, "[...document.querySelectorAll('.card img')].at(-1).naturalWidth === 16")
    page.select_option("[name=outcome]", "pass")
    assert count(page).startswith("2500 of 5000 images")


def test_filters_stand_in_the_address_and_a_link_gives_them_back(visit):
    page = to_gallery(visit("one"))
    page.select_option("[name=task]", "two_object")
    page.select_option("[name=outcome]", "fail")
    shown, address = prompts(page), page.evaluate("location.hash")
    assert address == "#task=two_object&outcome=fail"
    again = visit("one", hash=address)
    again.locator(".card").first.wait_for()
    assert prompts(again) == shown == ["two stars", "a red star"]
    assert again.locator("[name=task]").input_value() == "two_object"
    again.click("[type=reset]")
    wait_until(again, "location.hash === '#gallery'")
    strange = to_gallery(visit("one", hash="#task=%3Cb%3E&order=nonsense&other=1"))
    assert count(strange).startswith("10 of 10")


def saved(page, button) -> str:
    with page.expect_download() as download:
        button.click()
    return Path(download.value.path()).read_text("utf-8")


def test_tables_and_charts_are_saved(visit):
    page = visit("both")
    table = saved(page, page.locator("#table .save").first)
    assert table.splitlines()[0].startswith("metric,of,A,95% interval,n,failed,B,")
    assert "pick@made,image mean," in table
    plot = page.locator("#training .plot").first
    rows = saved(page, plot.locator(".save", has_text="CSV")).splitlines()
    assert rows[:2] == ["run,iteration,made/pick@made,low,high", "train,0,20,,"]
    drawn = saved(page, plot.locator(".save", has_text="SVG"))
    assert drawn.startswith("<svg") and "made/pick@made" in drawn and "<path" in drawn
    bars = saved(page, page.locator(".bars .save", has_text="CSV").first).splitlines()
    assert bars[0] == "geneval@made by task,run,value,low,high,images" and "base" in bars[1]


def test_three_runs_side_by_side(visit):
    page = to_gallery(visit("three"))
    page.select_option("[name=b]", "all")
    card = page.locator(".card").first
    assert card.locator(".pictures > *").count() == 3
    assert [text[0] for text in card.locator(".score").all_text_contents()] == ["A", "B", "C"]
    assert "sets" in count(page)
    card.click()
    assert page.locator("dialog .sides figure").count() == 3
    assert page.locator(".scoretable thead, .scoretable tr").first.locator(".chip").count() == 3


def test_colours_can_be_read_in_light_and_dark(visit):
    """WCAG AA: 4.5 to 1 of every text colour on both of the page's grounds."""
    for scheme in ("light", "dark"):
        page = visit("one", color_scheme=scheme)
        names = ["ink", "quiet", "link", "pass", "fail", *"abcdefgh", "paper", "raised"]
        found = page.evaluate(
            "names => names.map(n => getComputedStyle(document.documentElement).getPropertyValue(`--${n}`).trim())",
            names,
        )
        colours = dict(zip(names, found, strict=True))
        grounds = [light(colours.pop(name)) for name in ("paper", "raised")]
        for name, colour in colours.items():
            for ground in grounds:
                low, high = sorted((light(colour), ground))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, name)


def light(colour: str) -> float:
    """Relative luminance of `#rrggbb`, in [0, 1]."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_wide_table_says_that_it_scrolls(visit):
    page = visit("both", width=390, height=800)
    assert page.locator("#table .hint").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not visit("one", width=1600).locator("#table .hint").first.is_visible()


def test_printed_pages_show_everything_that_is_folded(visit):
    page = visit("both")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#training .plot").last.is_visible()
    assert (
        not page.locator("#gallery").is_visible() and not page.locator(".files").first.is_visible()
    )
    track = page.locator(".track i").first
    assert track.evaluate("bar => getComputedStyle(bar).printColorAdjust") == "exact"
    assert page.pdf().startswith(b"%PDF")

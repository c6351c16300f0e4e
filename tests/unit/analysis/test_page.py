"""The page in a real browser: Debian's Chromium, headless, without network, as wide as a phone and as a screen."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files"]
OPTIONS += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=10000"]
# The page in a frame of a given width, and what the browser measures of it.
FRAME = """<!DOCTYPE html><body style="margin:0"><iframe id="page" src="summary.html" width="{width}" height="900"
style="border:0"></iframe><script>page.onload = () => {{
  const document_ = page.contentDocument, body = document_.body, loose = [];
  for (const element of body.querySelectorAll("*"))
    if (!element.closest(".scroll, svg") && element.getBoundingClientRect().right > {width} + 1)
      loose.push(element.tagName);
  const small = [...body.querySelectorAll("p, li, td, figcaption, dd")]
    .filter(e => parseFloat(page.contentWindow.getComputedStyle(e).fontSize) < 12).length;
  const narrow = [...body.querySelectorAll("p, li, figcaption, dd")]
    .filter(e => e.getBoundingClientRect().width < 200).map(e => e.innerText);
  document.title = JSON.stringify([document_.documentElement.scrollWidth, loose, small, narrow, body.innerText.length]);
}};</script>"""

if BROWSER is None:
    pytest.skip("SKIPPED FOR LACK OF A BROWSER: apt install chromium", allow_module_level=True)


@pytest.fixture(scope="module", params=["toy", "80 layers"])
def folder(request, make_run, make_real_run, tmp_path_factory) -> Path:
    """The page of a small run with two tasks, and one whose subnet ids have 89 characters."""
    root = tmp_path_factory.mktemp("page")
    if request.param == "toy":
        run = make_run(root)
        run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40))
        run.add_task("winogrande", run.scores(0.80, 0.70, 0.68, 0.40), chance=0.5)
    else:
        run = make_real_run(root, 80)
    run.report()
    return run.results


def browse(folder: Path, *options: str) -> str:
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [BROWSER, *OPTIONS, profile, *options]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_its_window_and_letters_are_large_enough(folder, width):
    frame = folder / f"frame{width}.html"
    frame.write_text(FRAME.format(width=width))
    shot = folder / f"shot{width}.png"
    page = browse(folder, "--dump-dom", f"--window-size={max(width, 500)},900", frame.as_uri())
    title = html.unescape(re.search(r"<title>(.*?)</title>", page)[1])
    scroll_width, loose, small, narrow, letters = json.loads(title)
    assert letters > 2000
    assert scroll_width <= width and loose == [] and small == 0 and narrow == []
    browse(folder, f"--screenshot={shot}", f"--window-size={max(width, 500)},900", frame.as_uri())
    pixels = matplotlib.image.imread(shot)[..., :3]
    ink = (pixels.min(axis=2) < 0.6).mean()
    assert 0.01 < ink < 0.5, "the window is empty or dark"


def test_figures_are_drawn(folder):
    """The first figure of a task, alone in a window: white ground, the red star of the base, blue points."""
    text = (folder / "summary.html").read_text()
    svg = re.search(r"<figure>\s*(<svg.*?</svg>)", text, re.S)[1]
    (folder / "figure.html").write_text(f"<body style='margin:0'><div style='width:640px'>{svg}</div>")
    browse(folder, f"--screenshot={folder / 'figure.png'}", "--window-size=640,640", (folder / "figure.html").as_uri())
    pixels = matplotlib.image.imread(folder / "figure.png")[..., :3]
    for color in ((0, 0x72, 0xB2), (0xD0, 0, 0)):
        assert (np.abs(pixels - np.array(color) / 255).max(axis=2) < 0.1).sum() > 30

"""The dashboard in a real browser: headless Chromium, driven by Selenium."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import paredown
from paredown.coordinate.door import Door
from tests.coordinate.fake_run import FakeExecutor, fake_run
from tests.dashboard.folders import at_work, failed_only, many, with_plan
from tests.search.search_fakes import use_fakes

pytest.importorskip("streamlit")
webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]
PATIENCE_S = 60.0
WIDTHS = (1400, 390)


@contextmanager
def served(root: Path, **environment: str) -> Iterator[str]:
    """The dashboard of a folder, as its command starts it; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "paredown", "dashboard", str(root), "--port", str(port)]
    source = str(Path(paredown.__file__).parents[1])
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": source} | environment)
    address = f"http://127.0.0.1:{port}/"
    try:
        until(lambda: _answers(f"{address}_stcore/health"))
        yield address
    finally:
        process.terminate()
        process.wait(20)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as found:
            return bool(found.status == 200)
    except OSError:
        return False


def until(true: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE_S
    while not (found := true()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.1)
    return found


class Browser:
    """Chromium, at a width."""

    def __init__(self, width: int) -> None:
        wanted = webdriver.ChromeOptions()
        wanted.binary_location = str(CHROMIUM)
        for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
                     "--enable-unsafe-swiftshader", f"--window-size={width},1000"):  # fmt: skip
            wanted.add_argument(flag)
        service = webdriver.ChromeService(str(DRIVER))
        self.driver: Any = webdriver.Chrome(options=wanted, service=service)
        about = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", about)

    def text(self) -> str:
        return str(self.script("return document.body.innerText"))

    def script(self, code: str, *args: Any) -> Any:
        return self.driver.execute_script(code, *args)

    def opened(self, address: str, shows: str) -> None:
        self.driver.get(address)
        self.shows(shows)

    def shows(self, text: str) -> None:
        until(lambda: text in self.text())

    def find(self, selector: str) -> Any:
        return until(lambda: self.driver.find_elements("css selector", selector))[0]


@pytest.fixture(params=WIDTHS)
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    found = Browser(request.param)
    yield found
    found.driver.quit()


@pytest.fixture
def wide() -> Iterator[Browser]:
    found = Browser(WIDTHS[0])
    yield found
    found.driver.quit()


def require_whole(browser: Browser, address: str) -> None:
    """No error on the page, nothing wider than it, and nothing from anywhere else."""
    assert not browser.driver.find_elements("css selector", "[data-testid=stException]")
    assert browser.script("return document.documentElement.scrollWidth <= window.innerWidth")
    loaded = browser.script("return performance.getEntriesByType('resource').map(r => r.name)")
    assert loaded
    assert all(name.startswith((address, "data:", "blob:")) for name in loaded), loaded


def test_every_state_at_the_width_of_a_desk_and_of_a_phone(
    browser: Browser, tmp_path: Path
) -> None:
    many(tmp_path / "live", 14, episodes=40)
    with_plan(tmp_path / "live", episode=6)
    failed_only(tmp_path / "failed")
    (tmp_path / "none").mkdir()
    with served(tmp_path / "none") as address:
        browser.opened(address, "There is no experiment")
        require_whole(browser, address)
    with served(tmp_path) as address, at_work(tmp_path / "live"):
        browser.opened(address, "2 in")
        require_whole(browser, address)
        browser.opened(f"{address}?page=Front&experiment=live", "block 5 of 30")
        browser.find(".js-plotly-plot .main-svg")
        require_whole(browser, address)
        for page, shows in (
            ("Episode&episode=6", "Bits by layer"), ("Compare", "95 % interval"),
            ("Learned", "Energy and cost"), ("Steer", "exclude a method"),
        ):  # fmt: skip
            browser.opened(f"{address}?page={page}&experiment=live", shows)
            require_whole(browser, address)
        browser.opened(f"{address}?page=Front&experiment=failed", "every trial so far has failed")
        require_whole(browser, address)


def test_ten_thousand_episodes(wide: Browser, tmp_path: Path) -> None:
    many(tmp_path / "e", 10_000)
    with served(tmp_path / "e") as address:
        wide.opened(f"{address}?page=Front", "1 to 50 of 10001")
        wide.find(".js-plotly-plot .gl-canvas")
        require_whole(wide, address)
        wide.opened(f"{address}?page=Front&contains=mixed&sort=size", "Choose a row for its detail")
        assert "1 to 50 of 16" in wide.text()  # 1600 and some
        wide.opened(f"{address}?page=Episode&episode=9998", "episode, of 0 to 10000")
        wide.shows("paredown compress")


def test_refreshing_loses_no_filter_and_no_half_written_word(wide: Browser, tmp_path: Path) -> None:
    many(tmp_path / "e", 100, seed=1, episodes=200)
    with served(tmp_path / "e") as address:
        with at_work(tmp_path / "e", message="first block"):
            wide.opened(f"{address}?page=Front", "first block")
            box = wide.find("input[aria-label='strategy contains']")
            box.send_keys("rtn\n")
            wide.shows("of 17.")
            box = wide.find("input[aria-label='strategy contains']")
            box.send_keys("(bits")  # and nothing is pressed
        with at_work(tmp_path / "e", message="second block"):
            wide.shows("second block")
        with at_work(tmp_path / "e", message="third block"):
            wide.shows("third block")
            box = wide.find("input[aria-label='strategy contains']")
            assert box.get_attribute("value") == "rtn(bits"
            assert "of 17." in wide.text()
            assert "contains=rtn" in wide.driver.current_url
            wide.driver.refresh()
            wide.shows("of 17.")


def test_a_row_leads_to_its_episode(wide: Browser, tmp_path: Path) -> None:
    many(tmp_path / "e", 8, seed=1)
    with served(tmp_path / "e") as address:
        wide.opened(f"{address}?page=Front", "1 to 9 of 9")
        table = wide.find("[data-testid=stDataFrame]")
        wide.script("arguments[0].scrollIntoView({block: 'center'})", table)
        time.sleep(1)
        size = table.size
        across, down = 18 - size["width"] / 2, 35 * 3 + 17 - size["height"] / 2
        actions = webdriver.ActionChains(wide.driver)
        actions.move_to_element_with_offset(table, across, down).click().perform()
        wide.shows("episode, of 0 to 8")  # head, base, 1, and so it is
        until(lambda: "episode=2" in wide.driver.current_url)
        wide.shows("rtn(bits=4)")


def test_a_run_is_paused_from_the_browser(
    wide: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    run, _ = fake_run(tmp_path, FakeExecutor())
    folder = run.experiment.folder
    with at_work(folder), Door(run.experiment, run.steering), served(folder) as address:
        wide.opened(f"{address}?page=Steer", "or any command")
        buttons = wide.driver.find_elements("css selector", "[data-testid=stButton] button")
        next(b for b in buttons if "pause" in b.text).click()
        wide.shows("pausing after the running episode")
        assert run.steering.paused


def test_the_token_stands_before_everything(wide: Browser, tmp_path: Path) -> None:
    many(tmp_path / "e", 3, seed=1)
    token = "a-token-of-16-or-more"
    with served(tmp_path / "e", PAREDOWN_DASHBOARD_TOKEN=token) as address:
        wide.opened(f"{address}?page=Front", "look")
        assert "1 to 4 of 4" not in wide.text()
        wide.find("input[type=password]").send_keys(f"{token}\n")
        wide.shows("1 to 4 of 4")

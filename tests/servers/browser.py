"""A real browser, Debian's Chromium, for tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from servers.jars import ServersMissingError
from support.waiting import wait_until

PAGE_DEADLINE_S = 60


def start_browser(profile: Path) -> WebDriver:
    """Start Chromium without a window, with an empty profile; it remembers what pages say on the console.

    Raises:
        ServersMissingError: it is not installed.
    """
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        raise ServersMissingError(
            "no `chromium` and `chromedriver` on PATH (Debian: apt install chromium chromium-driver)"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


class Page:
    """What a person sees of the page that a browser shows."""

    def __init__(self, browser: WebDriver) -> None:
        self._browser = browser

    def open(self, url: str) -> None:
        """Load a page; its scripts go on after that."""
        self._browser.get(url)

    def text(self) -> str:
        """Return the text that is to be read now."""
        return str(self._browser.find_element(By.TAG_NAME, "body").text)

    def wait_for(self, *texts: str) -> None:
        """Block until all of these texts are to be read, in any case."""
        self._wait(lambda: all(text.lower() in self.text().lower() for text in texts), f"{texts} can be read")

    def wait_for_element(self, selector: str) -> None:
        """Block until the page has an element that this CSS selector selects."""
        self._wait(lambda: self._browser.find_elements(By.CSS_SELECTOR, selector), f"{selector} is there")

    def click(self, text: str) -> None:
        """Click on the button that says this, once it is there."""
        found = f"//button[contains(., '{text}')]"
        self._wait(lambda: self._browser.find_elements(By.XPATH, found), f"the button {text} is there")
        self._browser.find_element(By.XPATH, found).click()

    def complaints(self) -> list[str]:
        """Return the errors that the browser has written to its console since the last call."""
        entries = self._browser.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def _wait(self, condition: Callable[[], object], what: str) -> None:
        try:
            wait_until(condition, what, PAGE_DEADLINE_S)
        except AssertionError as late:
            raise AssertionError(f"{late}; the page says:\n{self.text()}\n{self.complaints()}") from None

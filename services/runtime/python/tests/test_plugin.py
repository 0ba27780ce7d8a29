"""The plugin for pytest, in a process of its own."""

import os
import subprocess
import sys
import unittest
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
TESTS = Path(__file__).parent / "app" / "tests"
# The package lies here and is not installed, so that pytest does not find the plugin by itself.
PYTEST = [sys.executable, "-m", "pytest", "-p", "oncue.pytest_plugin", "-p", "no:cacheprovider"]


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = {"PYTHONPATH": str(PACKAGE), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [*PYTEST, *arguments], cwd=folder, env={**os.environ, **path}, capture_output=True, text=True, check=False
    )


class Plugin(unittest.TestCase):
    def test_functions_are_found_and_apps_tell_what_they_did(self) -> None:
        tested = run(folder=TESTS)
        self.assertIn("2 failed, 2 passed", tested.stdout, tested.stderr)
        failed, alone = tested.stdout.split("test_that_fails_without_an_app", 1)
        self.assertIn("oncue: what the app did", failed)
        self.assertRegex(failed, r"sets shop\.order\.placed o2 \(event-1\) aside, rejected: an order of nothing")
        self.assertNotIn("oncue: what the app did", alone)

    def test_a_handler_that_fails_the_test_holds_nobody_up(self) -> None:
        tested = run("-k", "ends_the_test", "ending", folder=TESTS.parent)
        self.assertIn("1 failed", tested.stdout, tested.stderr)
        self.assertIn("must not be called", tested.stdout)

    def test_an_app_is_found_from_a_folder_above(self) -> None:
        tested = run(str(TESTS / "test_bill_order.py") + "::test_an_order_is_billed", folder=Path("/"))
        self.assertIn("1 passed", tested.stdout, tested.stderr)

    def test_without_an_app_nothing_is_done(self) -> None:
        tested = run("--fixtures", folder=Path("/tmp"))
        self.assertEqual(tested.returncode, 0, tested.stdout + tested.stderr)
        self.assertIn("oncue_app", tested.stdout)


if __name__ == "__main__":
    unittest.main()

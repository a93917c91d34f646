"""Lets the tests of this folder import the helpers of the replay's tests: recordings, and traces made by hand."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "replay"))

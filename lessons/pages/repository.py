"""Where the project lives, if the build can know it: then there are badges for Colab, and notebooks that install it."""

import copy
import json
import os
import re
import subprocess
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
ADDRESS = re.compile(r"github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?$")
COLAB = "https://colab.research.google.com/github/{}/blob/gh-pages/notebooks/{}.ipynb"
INSTALL = """try:
    import minipeft
except ImportError:
    %pip install -q "minipeft @ git+https://github.com/{}"
"""


def of_address(address):
    """OWNER/NAME of a GitHub address, or None."""
    found = ADDRESS.search(address.strip())
    return found[1] if found else None


@lru_cache
def known():
    """OWNER/NAME, from the environment of a GitHub action or from git's `origin`; None if neither tells."""
    if name := os.environ.get("GITHUB_REPOSITORY"):
        return name
    try:
        asked = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
        return of_address(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError):
        return None


def badge(stem):
    """The address that opens a lesson in Colab, or None."""
    return COLAB.format(known(), stem) if known() else None


def notebook(content, name):
    """A notebook for Colab: a first cell installs the package if it is not there. Without a name, as it is."""
    if name is None:
        return content
    content = copy.deepcopy(content)
    first = {
        "cell_type": "code",
        "id": "install",
        "metadata": {},
        "execution_count": None,
        "outputs": [],
        "source": INSTALL.format(name).rstrip(),
    }
    content["cells"].insert(0, first)
    return content


def write_notebooks(paths, folder):
    folder.mkdir(exist_ok=True)
    for path in paths:
        content = notebook(json.loads(path.read_text(encoding="utf-8")), known())
        (folder / path.name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

"""pyarrow is needed by this room alone, and its absence says what to install."""

import subprocess
import sys


def run(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_funcrec_does_not_import_pyarrow() -> None:
    assert run("import sys, funcrec; print('pyarrow' in sys.modules)") == "False"


def test_a_missing_pyarrow_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "try:\n    import funcrec.data\nexcept ImportError as error:\n    print(error)"
    )
    assert run(script) == "funcrec.data reads files with pyarrow: pip install funcrec[data]"

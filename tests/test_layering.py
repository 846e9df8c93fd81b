"""Who may import whom. The rules are ARCHITECTURE.md's, held by reading the sources without importing them.

- `core/` and the protocol's pure modules compute on values: no clock, randomness, IO, tasks or logging.
- Servers know the protocol library and themselves: never the hub, never each other.
- The hub is started by `python -m vllm_mcp_hub`; no package imports it.
- vLLM is a process that is spoken to over HTTP; no package imports it.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROTOCOL, HUB, CLI = "vllm_mcp_protocol", "vllm_mcp_hub", "vllm_mcp"
PURE_PROTOCOL = {
    f"{PROTOCOL}.{name}"
    for name in (
        *("units", "errors", "model", "model_names", "settings", "redaction"),
        *("gauges", "gpu", "http1", "monitoring"),
        *("answers", "memory_needs", "request_defaults", "vllm_models"),
        *("checkpoint", "hf.inventory", "metrics"),
        *(f"weights.{name}" for name in ("names", "headers", "counts", "summary", "gguf")),
        *(f"serving.{name}" for name in ("arguments", "naming", "paging", "permissions")),
        *(f"serving.{name}" for name in ("rendering", "results", "schema")),
    )
}
ENGINE_MODULES = {"vllm", "torch", "transformers", "safetensors", "tokenizers"}
ENGINE_SCRIPTS = {"vllm_mcp.make_tiny_models", f"{PROTOCOL}.ask_vllm_models"}
"""Files that are handed to the engine environment's own Python; ours only reads their constants."""
IMPURE = {
    *("asyncio", "anyio", "concurrent", "multiprocessing", "threading", "queue", "sched", "selectors"),
    *("os", "pathlib", "io", "shutil", "tempfile", "glob", "fcntl", "mmap", "sqlite3", "pwd", "platform"),
    *("time", "random", "secrets", "uuid"),
    *("socket", "ssl", "http", "subprocess", "signal", "ctypes", "logging", "warnings", "sys"),
}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "breakpoint", "__import__"}
VALUES = ("pydantic", "pydantic_core", "annotated_types", "pathlib.PurePath", "cryptography", "zstandard")
"""Values that validate themselves, paths that touch no disk, and libraries that only compute."""
CLOCK_READS = {"now", "utcnow", "today"}
"""Methods of datetime and date; the rest of that module only computes."""
MODULES_OF = {
    "mcp": {"mcp", "mcp_types"},
    "nvidia-ml-py": {"pynvml"},
    "pydantic": {"pydantic", "pydantic_core", "annotated_types"},
}
"""Import names of a distribution, where they are not simply its name."""


@dataclass(frozen=True)
class Module:
    name: str
    source: str
    is_package: bool = False

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]

    @property
    def pure(self) -> bool:
        return ".core." in f"{self.name}." or _is_pure_protocol(self.name)


def _is_pure_protocol(name: str) -> bool:
    """A pure module, or one of a pure package."""
    return any(f"{name}.".startswith(f"{pure}.") for pure in PURE_PROTOCOL)


def _folders() -> list[Path]:
    return [ROOT / "protocol", *sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))]


def _modules_of(folder: Path) -> Iterator[Module]:
    for path in sorted((folder / "src").rglob("*.py")):
        parts = path.relative_to(folder / "src").with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        yield Module(name, path.read_text(encoding="utf-8"), is_package)


def _all_modules() -> list[Module]:
    return [module for folder in _folders() for module in _modules_of(folder)]


def imports(module: Module) -> set[str]:
    """Full dotted names that a module imports, at any depth; `from a import b` gives `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base_of(node, module)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def _base_of(node: ast.ImportFrom, module: Module) -> str:
    if not node.level:
        return node.module or ""
    package = module.name.split(".") if module.is_package else module.name.split(".")[:-1]
    kept = package[: len(package) - (node.level - 1)]
    return ".".join([*kept, *([node.module] if node.module else [])])


def violations(module: Module, ours: set[str]) -> list[str]:
    """What `module` imports or calls against its layer, in words; `ours` are the suite's packages."""
    found = [problem for name in sorted(imports(module)) if (problem := _import_problem(module, name, ours))]
    if module.pure:
        found += _impure_calls(module)
    return found


def _import_problem(module: Module, name: str, ours: set[str]) -> str | None:
    top = name.partition(".")[0]
    if top in ENGINE_MODULES and module.name not in ENGINE_SCRIPTS:
        return f"{module.name} imports {name}: the engine is a process, not a library"
    if top in ours and top != module.top and not _may_import(module.top, top):
        return f"{module.name} imports {name}: {module.top} must not know {top}"
    if module.pure and not _pure_import(module, name):
        return f"{module.name} imports {name}: it must stay pure"
    return None


def _may_import(importer: str, imported: str) -> bool:
    if imported == PROTOCOL:
        return importer != PROTOCOL
    return importer == CLI and imported not in (HUB, CLI)


def _pure_import(module: Module, name: str) -> bool:
    top = name.partition(".")[0]
    if top in VALUES or name in VALUES:
        return True
    if top in sys.stdlib_module_names:
        return top not in IMPURE and not name.startswith(("urllib.request", "importlib"))
    in_own_core = name.startswith(f"{module.top}.core.")
    return in_own_core or _is_pure_protocol(name)


def _impure_calls(module: Module) -> list[str]:
    calls = [node.func for node in ast.walk(ast.parse(module.source)) if isinstance(node, ast.Call)]
    names = {call.id for call in calls if isinstance(call, ast.Name)} & IMPURE_CALLS
    names |= {call.attr for call in calls if isinstance(call, ast.Attribute)} & CLOCK_READS
    return [f"{module.name} calls {name}(): it must stay pure" for name in sorted(names)]


def test_every_module_keeps_to_its_layer() -> None:
    modules = _all_modules()
    ours = {module.top for module in modules}
    assert {PROTOCOL, HUB, CLI} <= ours
    assert [problem for module in modules for problem in violations(module, ours)] == []


@pytest.mark.parametrize("folder", _folders(), ids=lambda folder: folder.name)
def test_third_party_imports_are_declared(folder: Path) -> None:
    """Otherwise the package works here, where everything is installed, and not alone."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared: set[str] = set()
    for requirement in project["dependencies"]:
        dist = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        declared |= MODULES_OF.get(dist, {dist.replace("-", "_")})
    modules = [module for module in _modules_of(folder) if module.name not in ENGINE_SCRIPTS]
    used = {name.partition(".")[0] for module in modules for name in imports(module)}
    own = {module.top for module in modules}
    assert sorted(used - set(sys.stdlib_module_names) - own - declared) == []


OURS = {PROTOCOL, HUB, CLI, "vllm_model_manager", "vllm_other"}


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("vllm_mcp_hub.core.x", "import time"),
        ("vllm_mcp_hub.core.x", "from os import path"),
        ("vllm_mcp_hub.core.x", "def f():\n    import asyncio.events"),
        ("vllm_mcp_hub.core.x", "from vllm_mcp_hub.host import processes"),
        ("vllm_mcp_hub.core.x", "from ..host import processes"),
        ("vllm_mcp_hub.core.x", "from vllm_mcp_protocol.hub_client import Hub"),
        ("vllm_mcp_hub.core.x", "import httpx2"),
        ("vllm_mcp_hub.core.x", "open('x')"),
        ("vllm_mcp_hub.core.x", "import datetime\ndatetime.datetime.now()"),
        ("vllm_mcp_protocol.units", "import logging"),
        ("vllm_mcp_protocol.serving.schema", "from pathlib import Path"),
        ("vllm_mcp_protocol.paths", "import vllm_mcp"),
        ("vllm_mcp_protocol.engine_env", "from vllm import envs"),
        ("vllm_model_manager.server", "import vllm_mcp_hub.api"),
        ("vllm_model_manager.server", "import vllm_other"),
        ("vllm_mcp.main", "from vllm_mcp_hub import supervisor"),
    ],
)
def test_a_crossing_is_noticed(name: str, source: str) -> None:
    assert len(violations(Module(name, source), OURS)) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("vllm_mcp_hub.core.x", "import re, math\nfrom vllm_mcp_protocol.model import Device"),
        ("vllm_mcp_hub.core.x", "from .eviction import choose\nfrom vllm_mcp_protocol import units"),
        ("vllm_mcp_hub.supervisor", "import os, httpx2\nfrom vllm_mcp_hub.core import lifecycle"),
        ("vllm_mcp_hub.core.x", "from pydantic import BaseModel\nfrom datetime import UTC"),
        ("vllm_mcp_protocol.serving.schema", "from pathlib import PurePath\nfrom pydantic_core import core_schema"),
        ("vllm_mcp.main", "from vllm_model_manager import server"),
        ("vllm_mcp.make_tiny_models", "import torch"),
    ],
)
def test_the_rules_allow_what_the_design_does(name: str, source: str) -> None:
    assert violations(Module(name, source), OURS) == []

"""`vllm-mcp shell-init`: a shell function `crush` that answers `crush --tool NAME …`.

Crush itself has no `--tool`; people write it in scripts and guides, and this makes it work. Everything else
is handed to the real program.
"""

import shlex
import shutil
import sys
from pathlib import Path

# `function NAME` instead of `NAME()`: there, an alias of the same name would be expanded into the definition.
_POSIX = """\
function crush {{
  case "${{1-}}" in
    --tool)
      shift
      {command} tool "$@"
      ;;
    --tool=*)
      set -- "${{1#--tool=}}" "${{@:2}}"
      {command} tool "$@"
      ;;
    *)
      command crush "$@"
      ;;
  esac
}}
"""

_FISH = """\
function crush --description 'Crush, with --tool answered by vllm-mcp'
    set -l rest $argv
    set -e rest[1]
    switch "$argv[1]"
        case --tool
            {command} tool $rest
        case '--tool=*'
            {command} tool (string replace -- --tool= '' $argv[1]) $rest
        case '*'
            command crush $argv
    end
end
"""


def shell_init(shell: str, command: tuple[str, ...] | None = None) -> str:
    """The text for `eval "$(vllm-mcp shell-init bash)"`, or in fish `vllm-mcp shell-init fish | source`."""
    words = command or own_command()
    if shell == "fish":
        return _FISH.format(command=" ".join(map(quote_fish, words)))
    return _POSIX.format(command=shlex.join(words))


def own_command() -> tuple[str, ...]:
    """How to call this very vllm-mcp from anywhere: its script beside this Python, else the module."""
    script = Path(sys.executable).absolute().with_name("vllm-mcp")
    called = Path(sys.argv[0]).absolute()
    for candidate in (called, script):
        if candidate.name == "vllm-mcp" and candidate.is_file():
            return (str(candidate),)
    return (sys.executable, "-m", "vllm_mcp")


def shown_command() -> str:
    """How to call this vllm-mcp from here, as short as it stays true: for texts that say what to type."""
    words = own_command()
    script = Path(words[0])
    found = shutil.which("vllm-mcp")
    if len(words) == 1 and found and Path(found).samefile(script):
        return "vllm-mcp"
    if len(words) == 1 and script.is_relative_to(Path.cwd()):
        return shlex.quote(str(script.relative_to(Path.cwd())))
    return shlex.join(words)


def quote_fish(word: str) -> str:
    """`word` as one fish word: inside single quotes only backslash and quote are special."""
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"

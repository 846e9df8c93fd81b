"""Which downloaded files count as weights. Pure."""

from collections.abc import Mapping

_KINDS = (".safetensors", ".bin", ".pt", ".gguf")


def weights_bytes(sizes: Mapping[str, int | None]) -> int | None:
    """Size of the weight files that vLLM will download, of a repository's files and sizes; None: not known."""
    for kind in _KINDS:
        found = [size for name, size in sizes.items() if name.endswith(kind) and "/" not in name]
        if found:
            known = [size for size in found if size is not None]
            return sum(known) if len(known) == len(found) else None
    return None

"""Which addresses a search for engines may ask: those that the user named, checked and counted. Pure."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_mcp_protocol.errors import BadInput

MAX_HOSTS = 16
MAX_PORTS = 64
LOOPBACK = "127.0.0.1"

COMMON_PORTS = (8000, 8001, 8080, 11434, 1234, 30000)
"""Where servers listen unless told otherwise: vLLM (twice), llama.cpp, Ollama, LM Studio, SGLang."""

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_LONGEST_NAME_CHARS = 253
"""Of a host name in DNS (RFC 1035, without the root's dot)."""


@dataclass(frozen=True, slots=True)
class Target:
    """One address to ask."""

    host: str
    """Name or address, without brackets."""
    port: int

    @property
    def url(self) -> str:
        """`http://host:port`."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


def targets(hosts: Sequence[str], ports: Sequence[int]) -> tuple[Target, ...]:
    """Every host with every port, each once, in the order given.

    Raises BadInput for too many of them, for a port outside of 1 … 65535, and for what is not the name or address of
    one machine (a URL, a range, an address that reaches many).
    """
    _check_count("hosts", len(set(hosts)), MAX_HOSTS)
    _check_count("ports", len(set(ports)), MAX_PORTS)
    names = dict.fromkeys(_host(host) for host in hosts)
    numbers = dict.fromkeys(_port(port) for port in ports)
    return tuple(Target(host, port) for host in names for port in numbers)


def _check_count(parameter: str, count: int, limit: int) -> None:
    if count > limit:
        raise BadInput(
            f"{parameter} names {count} {parameter}; at most {limit} are asked in one call.",
            parameter=parameter,
            value=count,
            limit=limit,
            suggestion=f"name at most {limit} {parameter}, and call again for the others",
        )


def _port(port: int) -> int:
    if not 1 <= port <= 65535:
        raise BadInput(
            f"ports holds {port}, which is no port.",
            parameter="ports",
            value=port,
            suggestion="ports go from 1 to 65535; 8000 is vLLM's own",
        )
    return port


def _host(host: str) -> str:
    bare = host.strip().removeprefix("[").removesuffix("]").rstrip(".").lower()
    address = _address(bare)
    if address is None:
        if not _is_name(bare):
            raise _no_host(host, "it is neither a host name nor an IP address")
    elif address.is_unspecified or address.is_multicast or address.is_link_local:
        # Link-local also holds the metadata services of clouds, which no search for engines has to ask.
        raise _no_host(host, "it is not the address of one machine that serves models")
    return bare


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def _is_name(host: str) -> bool:
    labels = host.split(".")
    if len(host) > _LONGEST_NAME_CHARS or not all(_LABEL.fullmatch(label) for label in labels):
        return False
    return not labels[-1].isdigit() and not labels[-1].startswith("0x")  # 127.1 and 0x7f000001 are disguised addresses


def _no_host(host: str, why: str) -> BadInput:
    shown = host[:100].encode("ascii", "backslashreplace").decode()
    return BadInput(
        f"hosts holds {shown!r}, which cannot be asked: {why}.",
        parameter="hosts",
        value=shown,
        suggestion=f"give the name or address of one machine, for example {LOOPBACK} or gpu-box.local",
    )

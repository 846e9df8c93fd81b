"""From a plan to a command line and an environment. Secrets go into the environment, never into argv."""

import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from vllm_mcp_hub.host.processes import find_port_holder
from vllm_mcp_hub.record import Record
from vllm_mcp_protocol.errors import PortInUse
from vllm_mcp_protocol.hub_config import HubConfig
from vllm_mcp_protocol.model import CPU, Endpoint
from vllm_mcp_protocol.paths import user_home

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOOPBACK = "127.0.0.1"


def check_port(port: int) -> None:
    """Raises PortInUse naming the holder when `port` cannot be listened on now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            holder = find_port_holder(port)
            raise PortInUse(
                f"Port {port} on {LOOPBACK} cannot be used: {error.strerror}"
                + (f"; held by {holder}." if holder else "."),
                port=port,
                holder=holder,
                suggestion="choose another port, or leave it out: the engine then listens on a private socket",
            ) from None


def make_endpoint(record: Record) -> Endpoint:
    """Address and a fresh random key for an engine, the key kept in the engine's folder (0600)."""
    key = secrets.token_urlsafe(32)
    record.dir.write_key(key)
    port = record.request.options.port
    if port is None:
        where = {"url": "http://localhost", "uds": str(record.dir.socket_path)}
    else:
        where = {"url": f"http://{LOOPBACK}:{port}"}
    return Endpoint(**where, api_key=SecretStr(key), served_name=record.name)


def command_line(record: Record, executable: str) -> tuple[str, ...]:
    """`vllm serve …` for `record`."""
    request, facts = record.request, record.request.facts
    local = facts is not None and facts.path is not None and Path(request.model_id).is_absolute()
    model = facts.path if local and facts is not None and facts.path else request.model_id
    port = request.options.port
    where = ("--uds", str(record.dir.socket_path)) if port is None else ("--host", LOOPBACK, "--port", str(port))
    return (executable, "serve", model, "--served-model-name", record.name, *where, *record.plan.flags)


def environment(record: Record, config: HubConfig, executable: str, path: str) -> dict[str, str]:
    """All that an engine inherits. Nothing of the client that happened to ask, but what its settings name."""
    asked, endpoint = record.request.environment, record.endpoint
    env = {
        "PATH": f"{Path(executable).parent}:{path or _SYSTEM_PATH}",
        "HOME": str(user_home()),
        "USER": user_home().name,
        "LANG": "C.UTF-8",
        "TMPDIR": str(record.dir.tmp_path),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_API_KEY": endpoint.api_key.get_secret_value() if endpoint and endpoint.api_key else "",
        "HF_HOME": asked.hf_home,
        "HF_HUB_CACHE": asked.hf_hub_cache,
        "HF_ENDPOINT": asked.hf_endpoint,
        "HF_TOKEN": asked.hf_token.get_secret_value() if asked.hf_token else None,
        "HF_HUB_OFFLINE": "1" if _offline(record) else None,
        **_device_environment(record),
        **record.plan.env,
        **config.engine.env,
        **{name: value for name, value in os.environ.items() if name.startswith("VLLM_HUB_TEST_")},
    }
    return {name: value for name, value in env.items() if value is not None}


def _offline(record: Record) -> bool:
    """A model whose files are all here is started without asking the Hub, which saves seconds and surprises."""
    facts = record.request.facts
    return record.request.environment.hf_offline or bool(facts and facts.complete and facts.path)


def _device_environment(record: Record) -> Mapping[str, str | None]:
    private = record.request.options.port is None
    shared: dict[str, str | None] = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1" if record.request.options.enable_lora else None,
        # Dev routes can do anything to the engine: only behind a socket that nobody else reaches.
        "VLLM_SERVER_DEV_MODE": "1" if private and record.plan.asleep_bytes is not None else None,
    }
    if record.devices == (CPU,):
        return shared
    visible = ",".join(record.devices)
    return shared | {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def hub_path() -> str:
    """The PATH for engines: compilers and CUDA tools are found where the hub finds them."""
    return os.environ.get("PATH", _SYSTEM_PATH)

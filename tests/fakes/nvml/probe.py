"""Reads GPUs in a process of its own, on command: which NVML it meets is decided before a process starts.

A line of JSON in, a line of JSON out: `{"new": {...}}` makes a reader, `{"read": {...}}` gives its readings or
`{"silent": true}`, `{"close": {}}` ends its session. The first line out says where the binding came from.
"""

import json
import sys
from typing import Any

import pynvml

from vllm_mcp_hub.host.bounded import Silent
from vllm_mcp_hub.host.gpus import GpuReader


def main() -> None:
    _say({"binding": pynvml.__file__})
    reader = GpuReader()
    for line in sys.stdin:
        ((command, arguments),) = json.loads(line).items()
        if command == "new":
            reader.close()
            reader = GpuReader(**arguments)
            _say({})
        elif command == "close":
            reader.close()
            _say({})
        else:
            try:
                _say([reading.model_dump() for reading in reader.read(**arguments)])
            except Silent:
                _say({"silent": True})


def _say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

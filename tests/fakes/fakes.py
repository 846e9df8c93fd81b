"""Making fakes for tests."""

import json
import os
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from tests.fakes.fake_args import Knobs

FAKE_VLLM = Path(__file__).with_name("fake_vllm.py")


def make_fake_vllm(folder: Path, **knobs: Any) -> Path:
    """Write an executable `vllm` into `folder` that behaves as `knobs` say (see `fake_args.Knobs`); its path.

    Calling it again with other knobs changes the engines started from then on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    set_knobs(folder, **knobs)
    launcher = folder / "vllm"
    python, script, home = (shlex.quote(str(path)) for path in (sys.executable, FAKE_VLLM, folder))
    staged = folder / "vllm.new"
    staged.write_text(f'#!/bin/sh\nFAKE_VLLM_FOLDER={home} exec {python} -S {script} "$@"\n')
    staged.chmod(0o755)
    os.replace(staged, launcher)
    return launcher


def set_knobs(folder: Path, **knobs: Any) -> None:
    """Replace the knobs of the fake in `folder`. Raises TypeError for a knob that does not exist."""
    unknown = knobs.keys() - {field.name for field in fields(Knobs)}
    if unknown:
        raise TypeError(f"the fake vLLM has no knob {sorted(unknown)}")
    staged = folder / "fake.json.new"
    staged.write_text(json.dumps(knobs))
    os.replace(staged, folder / "fake.json")

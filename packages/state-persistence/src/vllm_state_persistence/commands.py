"""By hand and never through a tool: keys, repair, prune, backup; and what the hub does from time to time."""

import argparse
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import anyio

from vllm_mcp_protocol.errors import SuiteError
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.paths import prepare_state_dir, state_dir
from vllm_mcp_protocol.settings import Settings, forget_unset
from vllm_mcp_protocol.units import format_bytes

EXIT_DONE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def run_command(argv: Sequence[str]) -> int:
    """Do one of the description's `by_hand`; the exit code: 0 done, 1 it failed or found damage, 2 bad usage."""
    options = _parser().parse_args(argv)
    forget_unset(os.environ)
    try:
        settings = Settings.from_environment(os.environ)
        work: Callable[[Settings, argparse.Namespace], Awaitable[int]] = _WORK[options.command]
        return anyio.run(work, settings, options)
    except SuiteError as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vllm-state-persistence", description="The store of snapshots, by hand.")
    commands = parser.add_subparsers(dest="command", required=True)
    init = commands.add_parser("init-key", help="make a key where there is none: a file (0600) in the state folder")
    init.add_argument("--keyring", action="store_true", help="keep it in the system's keyring instead")
    commands.add_parser("rotate-key", help="lock the store with a new key; data is not rewritten")
    snapshot = commands.add_parser("snapshot", help="save what changed of the sessions that were saved before")
    snapshot.add_argument("--all", action="store_true", help="also the sessions that were never saved")
    verify = commands.add_parser("verify", help="read everything back")
    verify.add_argument("--structure", action="store_true", help="only the structure, not every byte")
    commands.add_parser("repair", help="save what can be saved, and list what cannot")
    prune = commands.add_parser("prune", help="drop what the rules let go, and give space back")
    prune.add_argument("--dry-run", action="store_true", help="only say what would go")
    export = commands.add_parser("export", help="one snapshot into one encrypted file")
    export.add_argument("state_id")
    export.add_argument("path", type=Path)
    importing = commands.add_parser("import", help="a snapshot from such a file")
    importing.add_argument("path", type=Path)
    importing.add_argument("--unencrypted", action="store_true", help="also when anybody may have written it")
    restore = commands.add_parser("restore", help="write saved conversations back into their clients' files")
    restore.add_argument("session_id", nargs="*", help="sessions; --all for every one")
    restore.add_argument("--all", action="store_true", help="every session that was saved")
    restore.add_argument("--new", action="store_true", help="as sessions of their own beside those that are there")
    restore.add_argument("--force", action="store_true", help="replace what a session holds now")
    salvage = commands.add_parser("salvage", help="copy what can be read of a damaged store, even one cut short")
    salvage.add_argument("path", type=Path, help="the damaged file; what is saved of it goes into the store")
    backup = commands.add_parser("backup", help="copy the store while it is in use")
    backup.add_argument("path", type=Path)
    backup.add_argument("--replace", action="store_true", help="replace the file that is there")
    return parser


async def _init_key(settings: Settings, options: argparse.Namespace) -> int:
    from vllm_state_persistence.key_places import create_in_system_keyring, create_key_file

    folder = prepare_state_dir(state_dir(settings))
    if options.keyring:
        create_in_system_keyring()
        print("A new key is in the system's keyring.")
    else:
        print(f"A new key is in {create_key_file(folder)}: copy it to a safe place; without it no snapshot comes back.")
    return EXIT_DONE


async def _rotate_key(settings: Settings, _options: argparse.Namespace) -> int:
    from vllm_state_persistence.key_places import add_key, forget_old_keys
    from vllm_state_persistence.keys import KeyRing
    from vllm_state_persistence.store.maintenance import rotate_key
    from vllm_state_persistence.workplace import open_store

    folder = state_dir(settings)
    async with await open_store(settings) as store:
        add_key(folder)  # the old one stays until the store is locked with the new one: this may end anywhere
        await rotate_key(store, KeyRing.from_settings(settings, folder))
        forgotten = forget_old_keys(folder)
    print(
        f"The store is locked with a new key; {forgotten} old ones are forgotten. Exports keep the key of their time."
    )
    return EXIT_DONE


async def _snapshot(settings: Settings, options: argparse.Namespace) -> int:
    from vllm_state_persistence.background import save_what_changed
    from vllm_state_persistence.workplace import Workplace

    work = Workplace(settings, Hub(settings, client="vllm-state-persistence", start=False), None)
    try:
        done = await save_what_changed(work, new_ones=options.all)
    finally:
        await work.aclose()
    print(f"{done.saved} sessions saved, {done.unchanged} unchanged, {done.dropped} old snapshots dropped.")
    for problem in done.problems:
        print(problem, file=sys.stderr)
    return EXIT_FAILED if done.problems else EXIT_DONE


async def _verify(settings: Settings, options: argparse.Namespace) -> int:
    from vllm_state_persistence.store.verifying import verify
    from vllm_state_persistence.workplace import open_store

    async with await open_store(settings) as store:
        found = await verify(store, read_data=not options.structure)
    for damage in found.damaged:
        print(damage, file=sys.stderr)
    print(f"{found.states} snapshots, {found.values} values, {format_bytes(found.read_bytes)} read.")
    return EXIT_DONE if found.sound else EXIT_FAILED


async def _repair(settings: Settings, _options: argparse.Namespace) -> int:
    from vllm_state_persistence.store.repairing import repair
    from vllm_state_persistence.workplace import open_store

    async with await open_store(settings) as store:
        done = await repair(store)
    for damage in done.lost:
        print(f"lost: {damage}", file=sys.stderr)
    print(f"{done.states_rewritten} snapshots mended, {done.states_removed} removed.")
    return EXIT_DONE


async def _prune(settings: Settings, options: argparse.Namespace) -> int:
    from vllm_state_persistence.retaining import due, rules_of
    from vllm_state_persistence.store.maintenance import prune
    from vllm_state_persistence.workplace import now, open_store

    async with await open_store(settings) as store:
        drops = await due(store, rules_of(settings), now())
        for drop in drops:
            print(f"{drop.state_id}: {drop.reason}")
        if options.dry_run:
            return EXIT_DONE
        await store.drop([drop.state_id for drop in drops])
        done = await prune(store)
    print(f"{done.states} snapshots removed, {format_bytes(done.freed_bytes)} freed.")
    return EXIT_DONE


async def _export(settings: Settings, options: argparse.Namespace) -> int:
    from vllm_state_persistence.store.transfer import export
    from vllm_state_persistence.workplace import open_store

    async with await open_store(settings) as store:
        size = await export(store, options.state_id, options.path.absolute())
    print(f"{options.path}: {format_bytes(size)}.")
    return EXIT_DONE


async def _import(settings: Settings, options: argparse.Namespace) -> int:
    from vllm_state_persistence.store.transfer import import_
    from vllm_state_persistence.workplace import open_store

    prepare_state_dir(state_dir(settings))
    async with await open_store(settings) as store:
        saved = await import_(store, options.path.absolute(), allow_plain=options.unencrypted)
        info = await store.info(saved.state_id)
    print(f"{saved.state_id}: session {info.session_id} of {info.source}, {info.messages} messages.")
    return EXIT_DONE


async def _backup(settings: Settings, options: argparse.Namespace) -> int:
    from vllm_state_persistence.store.transfer import backup
    from vllm_state_persistence.workplace import open_store

    async with await open_store(settings) as store:
        size = await backup(store, options.path.absolute(), replace=options.replace)
    print(f"{options.path}: {format_bytes(size)}.")
    return EXIT_DONE


async def _salvage(settings: Settings, options: argparse.Namespace) -> int:
    from vllm_state_persistence.keys import KeyRing
    from vllm_state_persistence.store.store import StateStore
    from vllm_state_persistence.store.transfer import salvage
    from vllm_state_persistence.workplace import open_store, store_path

    path = options.path.absolute()
    if not path.is_file():
        print(f"{path} is no file.", file=sys.stderr)
        return EXIT_USAGE
    if store_path(settings).exists() and path.samefile(store_path(settings)):
        print(f"{path} is the store itself. Move it aside, and name it there.", file=sys.stderr)
        return EXIT_USAGE
    keys = KeyRing.from_settings(settings, prepare_state_dir(state_dir(settings)))
    async with await StateStore.open(path, keys, salvage=True) as damaged, await open_store(settings) as store:
        saved, lost = await salvage(damaged, store)
    for damage in lost:
        print(f"lost: {damage}", file=sys.stderr)
    print(f"{len(saved)} snapshots saved of {options.path}.")
    return EXIT_FAILED if lost else EXIT_DONE


async def _restore(settings: Settings, options: argparse.Namespace) -> int:
    """The newest snapshot of each session, each into its own session unless `--new`."""
    from vllm_state_persistence.sources.base import Target, Written
    from vllm_state_persistence.workplace import Workplace
    from vllm_state_persistence.writing_back import write_back

    if bool(options.session_id) == options.all:
        print("Name sessions, or say --all.", file=sys.stderr)
        return EXIT_USAGE
    work = Workplace(settings, Hub(settings, client="vllm-state-persistence", start=False), None)
    try:
        store = await work.store()
        saved = {info.state_id: info for info in (await store.sessions()).items}
        wanted = [one for one, info in saved.items() if options.all or info.session_id in options.session_id]
        sources = {source.name: source for source in work.sources()}
        done = await write_back(store, sources, wanted, Target(same=not options.new, force=options.force))
    finally:
        await work.aclose()
    failed = {one: error for one, error in done.items() if not isinstance(error, Written)}
    for state_id, error in failed.items():
        print(f"{saved[state_id].source} {saved[state_id].session_id}: {error}", file=sys.stderr)
    missing = set(options.session_id) - {info.session_id for info in saved.values()}
    for session_id in sorted(missing):
        print(f"{session_id}: there is no snapshot of it", file=sys.stderr)
    print(f"{len(done) - len(failed)} conversations written.")
    return EXIT_FAILED if failed or missing else EXIT_DONE


_WORK = {
    "init-key": _init_key,
    "rotate-key": _rotate_key,
    "snapshot": _snapshot,
    "verify": _verify,
    "repair": _repair,
    "prune": _prune,
    "export": _export,
    "import": _import,
    "backup": _backup,
    "salvage": _salvage,
    "restore": _restore,
}

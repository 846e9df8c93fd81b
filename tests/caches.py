"""Makes Hugging Face caches, the way huggingface_hub 1.x lays them out: good ones by seed, and a list of bad things.

Contents are a few bytes long and the same for the same seed, so that thousands of repositories take seconds.
"""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

AGE_S = 3600.0
"""How long ago a made cache was written: a scan does not trust what changed just now."""

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}
_SMALL = (
    *(".gitattributes", "LICENSE", "README.md", "added_tokens.json", "chat_template.jinja", "generation_config.json"),
    *("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"),
)
_NESTED = ("onnx/model.onnx", "original/consolidated.00.pth", "original/params.json", "a/b/c/deep.txt")


class MadeRepo:
    """A repository that is being written."""

    def __init__(self, cache: Path, repo_id: str, kind: str = "model") -> None:
        self.path = cache / f"{kind}s--{repo_id.replace('/', '--')}"
        for name in ("blobs", "refs", "snapshots"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        self._blobs, self._path = f"{self.path}/blobs/", f"{self.path}/"

    def add(self, commit: str, name: str, content: bytes, *, shared: bool = False) -> Path:
        """A file of the revision `commit`, as a link to a blob that is named by the hash of its content."""
        blob = hashlib.sha256(content).hexdigest()
        if shared:
            self._share(blob, content)
        else:
            self._write(self._blobs + blob, content)
        if not os.path.lexists(f"{self._path}snapshots/{commit}/{name}"):
            self.link(commit, name, "../" * (2 + name.count("/")) + "blobs/" + blob)
        return Path(self._blobs + blob)

    def _share(self, blob: str, content: bytes) -> None:
        """Put the content where all repositories of the cache have it, and link the blob there."""
        if os.path.lexists(self._blobs + blob):
            return
        name = hashlib.blake2s(content).hexdigest()
        store = self.path.parent / "blobs" / name[:2]
        store.mkdir(parents=True, exist_ok=True)
        (store.parent / ".huggingface-shared-blobs").write_text("1\n")
        self._write(f"{store}/{name}", content)
        with open(f"{store}/{name}.refs", "a") as users:
            users.write(f"{self.path.name}/blobs/{blob}\n")
        os.symlink(f"../../blobs/{name[:2]}/{name}", self._blobs + blob)

    def link(self, commit: str, name: str, target: str) -> None:
        """A file of the revision `commit` that is a link to `target`, whatever that is."""
        path = f"{self._path}snapshots/{commit}/{name}"
        try:
            os.symlink(target, path)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.symlink(target, path)

    def ref(self, name: str, commit: str) -> None:
        path = self.path / "refs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)

    @staticmethod
    def _write(path: str, content: bytes) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(handle, content)
        os.close(handle)


def make_cache(
    root: Path, repos: int = 10, *, seed: int = 0, revisions: int = 3, shared: bool = True, age_s: float = AGE_S
) -> Path:
    """A cache of `repos` whole repositories at `root`, of one to `revisions` revisions each; gives back `root`.

    `shared`: weights lie where repositories share them, as huggingface_hub puts them since 1.3x with Xet.
    """
    chance = random.Random(seed)
    root.mkdir(parents=True, exist_ok=True)
    (root / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
    (root / ".locks").mkdir(exist_ok=True)
    for number in range(repos):
        kind = chance.choices(("model", "dataset", "space"), (18, 1, 1))[0]
        owner = "" if chance.random() < 0.05 else f"org-{number % 17}/"
        _fill(MadeRepo(root, f"{owner}model_{number}.v{chance.randrange(9)}", kind), chance, revisions, shared)
    age(root, age_s)
    return root


def _fill(repo: MadeRepo, chance: random.Random, revisions: int, shared: bool) -> None:
    """Revisions that have most of their contents in common, as those of real repositories do."""
    files = _files(chance)
    commits = [f"{chance.getrandbits(160):040x}" for _ in range(chance.randint(1, revisions))]
    for number, commit in enumerate(commits):
        for name, content in files.items():
            repo.add(commit, name, content, shared=shared and name.endswith(".safetensors"))
        files["README.md"] = b"# revision %d\n" % number
        files[f"new-{number}.txt"] = files["config.json"]
    repo.ref("main", commits[0])
    for number, commit in enumerate(commits[1:]):
        repo.ref(chance.choice((f"v{number}.0", f"refs/pr/{number}")), commit)


def _files(chance: random.Random) -> dict[str, bytes]:
    files = {name: os.fsencode(name) * chance.randrange(1, 9) for name in _SMALL}
    files["config.json"] = json.dumps(CONFIG | {"max_position_embeddings": chance.randrange(1, 9) * 1024}).encode()
    files["tokenizer.json"] = b"{}" * chance.randrange(1, 99)
    shards = chance.choice((1, 1, 2, 4, 6))
    names = [f"model-{number + 1:05d}-of-{shards:05d}.safetensors" for number in range(shards)]
    for number, name in enumerate(names if shards > 1 else ["model.safetensors"]):
        files[name] = b"%d" % number * chance.randrange(1, 999)
    if shards > 1:
        files["model.safetensors.index.json"] = json.dumps({"weight_map": {name: name for name in names}}).encode()
    if chance.random() < 0.05:
        files |= {name: os.fsencode(name) for name in _NESTED}
    return files


def age(root: Path, age_s: float = AGE_S) -> None:
    """Set every time in a cache back, folders after what is in them; links keep theirs."""
    now_s = root.stat().st_mtime
    for folder, _, files in os.walk(root, topdown=False):
        for path in (*(f"{folder}/{name}" for name in files), folder):
            if not os.path.islink(path):
                os.utime(path, (now_s - age_s, now_s - age_s))


@dataclass(frozen=True)
class Nasty:
    """Something bad in a cache."""

    name: str
    make: Callable[[Path], object]
    """Puts it into the cache that it gets."""
    warning: str
    """A part of the warning that a scan must give."""
    kept: tuple[str, ...] | None = None
    """Files of `org/bad` that must be listed nevertheless; None: it has no revision then."""


COMMIT, OTHER = "a" * 40, "b" * 40


def bad(cache: Path) -> MadeRepo:
    """`org/bad`, with one good file; what else is wrong comes on top."""
    repo = MadeRepo(cache, "org/bad")
    repo.add(COMMIT, "config.json", json.dumps(CONFIG).encode())
    repo.ref("main", COMMIT)
    return repo


def _link(target: str) -> Callable[[Path], None]:
    return lambda cache: bad(cache).link(COMMIT, "m.bin", target)


def _link_into_other(cache: Path) -> None:
    blob = MadeRepo(cache, "org/other").add(OTHER, "config.json", b"{}")
    bad(cache).link(COMMIT, "m.bin", str(blob.absolute()))


def _blob_link(target: str) -> Callable[[Path], None]:
    def make(cache: Path) -> None:
        _link("../../blobs/x")(cache)
        (bad(cache).path / "blobs/x").symlink_to(target)

    return make


def _inside(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Do something at the path `name` of `org/bad`; `@` is its snapshot."""
    return lambda cache: make(bad(cache).path / name.replace("@", f"snapshots/{COMMIT}"))


def _beside(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Do something at the path `name` of the cache itself."""
    return lambda cache: make(cache / name)


def _swap(target: str = "away") -> Callable[[Path], None]:
    """Move a folder out of the cache and leave a link to it."""

    def make(path: Path) -> None:
        cache = next(parent for parent in path.parents if not parent.name.startswith("models--"))
        path.rename(cache.parent / target)
        path.symlink_to(cache.parent / target)

    return make


def _file_instead(path: Path) -> None:
    shutil.rmtree(path)
    path.write_bytes(b"")


def _unfinished_only(cache: Path) -> None:
    (MadeRepo(cache, "org/bad").path / f"blobs/{'f' * 64}.0123abcd.incomplete").write_bytes(b"x" * 2048)


def _ref(content: str) -> Callable[[Path], None]:
    return lambda cache: bad(cache).ref("dev", content)


GOOD = ("config.json",)
DEEP = "/".join("abcdefghijkl") + "/x.json"
NASTY = (
    Nasty("an unfinished file and nothing else", _unfinished_only, "org/bad: no snapshot, 2.0 KiB downloaded"),
    Nasty("link to a blob that is not there", _link("../../blobs/gone"), "org/bad: m.bin is missing", GOOD),
    Nasty("link to nowhere", _link("nowhere"), "org/bad: m.bin is missing", GOOD),
    Nasty("link to itself", _link("m.bin"), "org/bad: m.bin is missing", GOOD),
    Nasty("link around a loop of folders", _link(".."), "org/bad: m.bin is a link to a folder", GOOD),
    Nasty("absolute link out", _link("/etc/passwd"), "org/bad: m.bin is a link out of the cache", GOOD),
    Nasty("relative link out", _link("../../blobs/../../../x"), "org/bad: m.bin is a link out of the cache", GOOD),
    Nasty("link into another repository", _link_into_other, "org/bad: m.bin is a link out of the cache", GOOD),
    Nasty("blob that is a link out", _blob_link("/etc/passwd"), "blobs/x is a link out of the cache", GOOD),
    Nasty("blob that is a link to itself", _blob_link("x"), "blobs/x is a link out of the cache", GOOD),
    Nasty("blob whose shared contents are gone", _blob_link(f"../../blobs/aa/{'a' * 64}"), "m.bin is missing", GOOD),
    Nasty("ref to a commit that is not there", _ref(OTHER), f"refs/dev is at {OTHER}", GOOD),
    Nasty("ref of junk", _ref("../../../etc"), "refs/dev names no commit", GOOD),
    Nasty("ref of nothing", _ref(""), "refs/dev names no commit", GOOD),
    Nasty("ref of 50 KB", _ref("a" * 50_000), "refs/dev cannot be read: longer than 1.0 KiB", GOOD),
    Nasty("ref that is no text", _inside("refs/dev", lambda p: p.write_bytes(b"\xff")), "refs/dev cannot be", GOOD),
    Nasty("ref that is a link", _inside("refs/dev", lambda p: p.symlink_to("main")), "refs/dev cannot be read", GOOD),
    Nasty("ref that is a pipe", _inside("refs/dev", os.mkfifo), "refs/dev cannot be read: not a regular file", GOOD),
    Nasty("refs that is a file", _inside("refs", _file_instead), "refs is not a folder", GOOD),
    Nasty("refs that is a link", _inside("refs", _swap()), "refs is a link; not followed", GOOD),
    Nasty("pipe in a snapshot", _inside("@/m.bin", os.mkfifo), "m.bin is not a file", GOOD),
    Nasty("name in Latin-1", _inside("@/" + os.fsdecode(b"\xe4"), Path.touch), "is not a name in UTF-8", GOOD),
    Nasty("folder nested too deeply", lambda c: bad(c).add(COMMIT, DEEP, b""), "is nested too deeply", GOOD),
    Nasty("file among the snapshots", _inside("snapshots/x", Path.touch), "snapshots/x is not a folder", GOOD),
    Nasty("snapshot that is a link", _inside("snapshots/x", lambda p: p.symlink_to(COMMIT)), "x is a link", GOOD),
    Nasty("snapshot with a space", _inside("snapshots/a b", Path.mkdir), "a b is not the name of a commit", GOOD),
    Nasty("pipe among the blobs", _inside("blobs/p", os.mkfifo), "blobs/p is not a file", GOOD),
    Nasty("blobs that is a link", _inside("blobs", _swap()), "blobs is a link; not followed", ()),
    Nasty("blobs that is a file", _inside("blobs", _file_instead), "blobs is not a folder", ()),
    Nasty("snapshots that is a link", _inside("snapshots", _swap()), "snapshots is a link; not followed"),
    Nasty("snapshots that is a file", _inside("snapshots", _file_instead), "snapshots is not a folder"),
    Nasty("repository that is a link", _inside("", _swap()), "models--org--bad is a link out of the cache"),
    Nasty("repository without anything", _beside("models--org--bad", Path.mkdir), "org/bad: no snapshot"),
    Nasty("repository that is a file", _beside("models--org--bad", Path.touch), "not the folder of a repository"),
    Nasty("repository that is a pipe", _beside("models--org--bad", os.mkfifo), "not the folder of a repository"),
    Nasty("link to the cache itself", _beside("models--loop", lambda p: p.symlink_to(".")), "loop is a link out"),
    Nasty("repository without a name", _beside("models--", Path.mkdir), "not the folder of a repository"),
    Nasty("repository of dots", _beside("models--..--..", Path.mkdir), "not the folder of a repository"),
    Nasty("repository with a space", _beside("models--org--a b", Path.mkdir), "not the folder of a repository"),
    Nasty("repository in Latin-1", _beside(os.fsdecode(b"models--\xe4"), Path.mkdir), "not the folder of a repo"),
)

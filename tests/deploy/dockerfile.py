"""A Dockerfile built without docker: its steps run one after the other, in a folder as their root.

The machine's own system stands in for the base image: /usr is mounted read-only, /etc is a copy, and a new virtual
environment is the image's Python. Needs root.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

PYTHON = "/python"  # in the image
_READ_ONLY = ("/usr", "/opt", sys.base_prefix)
_LINKS = ("/bin", "/lib", "/lib64", "/sbin")  # into /usr
_DEVICES = ("/dev/null", "/dev/urandom")


@dataclass
class Image:
    """Hold a stage that was built: its files, and what a container starts with."""

    root: Path
    variables: dict[str, str]
    workdir: str = "/"
    user: str = "root"
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)

    def run(self, command: list[str], *, mounts: str = "true", **variables: str) -> subprocess.Popen[bytes]:
        """Start a command in it; ``mounts`` are shell commands that mount more, relative to the image's root."""
        bound = [f"mount --bind {path} .{path} && mount -o remount,bind,ro .{path}" for path in _READ_ONLY]
        bound += [*(f"mount --bind {path} .{path}" for path in _DEVICES), "mount -t proc proc proc", mounts]
        drop = f"/usr/bin/setpriv --reuid={self.user} --regid={self.user} --clear-groups"
        enter = f'exec /usr/sbin/chroot . {drop} /usr/bin/env --chdir={self.workdir} "$0" "$@"'
        box = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", " && ".join([*bound, enter])]
        return subprocess.Popen([*box, *command], cwd=self.root, env={**self.variables, **variables})

    def finish(self, command: list[str], **variables: str) -> None:
        """Run a command in it to its end."""
        status = self.run(command, **variables).wait()
        assert status == 0, f"{command} ended with {status}"


class Builder:
    """What a Dockerfile describes, built stage by stage: those that are needed, once each, and no other."""

    def __init__(self, dockerfile: Path, folder: Path, **arguments: str) -> None:
        """Read it; ``folder`` is where the images will lie, ``arguments`` are those of `--build-arg`."""
        self._context = dockerfile.parent
        self._folder = folder
        self._arguments = arguments
        self._stages: dict[str, tuple[str, list[tuple[str, str]]]] = {}  # base and steps
        self._built: dict[str, Image] = {}
        self._read(dockerfile.read_text())

    def build(self, **arguments: str) -> Image:
        """Build the last stage, which may need others than it did with other ``arguments``."""
        self._arguments |= arguments
        self._built.pop("last", None)
        return self._build("last")

    def _read(self, text: str) -> None:
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        steps: list[tuple[str, str]] = []
        for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
            keyword, _, rest = line.partition(" ")
            if keyword == "FROM":
                base, _, name = rest.partition(" AS ")
                self._stages[name or "last"] = base, (steps := [])
            elif self._stages:
                steps.append((keyword, rest))
            else:  # an ARG that all may use
                name, _, default = rest.partition("=")
                self._arguments.setdefault(name, default)

    def _build(self, name: str) -> Image:
        if name not in self._built:
            base, steps = self._stages[name]
            base = Template(base).substitute(self._arguments)
            image = self._built[name] = self._start(name, base)
            known: dict[str, str] = {}
            for keyword, rest in steps:
                self._step(image, known, keyword, rest)
        return self._built[name]

    def _start(self, name: str, base: str) -> Image:
        root = self._folder / name
        shutil.rmtree(root, ignore_errors=True)
        if base in self._stages:
            image = deepcopy(self._build(base))
            subprocess.run(["cp", "--archive", "--link", image.root, root], check=True)
            image.root = root
            return image
        for folder in (*_READ_ONLY, "/proc", "/dev", "/tmp"):
            (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
        (root / "tmp").chmod(0o1777)
        for link in filter(os.path.islink, _LINKS):
            (root / link.lstrip("/")).symlink_to(os.readlink(link))
        for device in _DEVICES:
            (root / device.lstrip("/")).touch()
        shutil.copytree("/etc", root / "etc", symlinks=True)
        variables = {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
        image = Image(root, {**variables, "PATH": f"{PYTHON}/bin:/usr/bin:/usr/sbin", "HOME": "/tmp"})
        image.finish([f"{sys.base_prefix}/bin/python3", "-m", "venv", PYTHON])
        return image

    def _step(self, image: Image, known: dict[str, str], keyword: str, rest: str) -> None:
        match keyword:
            case "ARG":
                name, _, default = rest.partition("=")
                known[name] = self._arguments.get(name, default)
            case "ENV":
                values = shlex.split(Template(rest).substitute({**known, **image.variables}))
                image.variables |= dict(value.split("=", 1) for value in values)
            case "WORKDIR":
                image.workdir = rest
                (image.root / rest.lstrip("/")).mkdir(exist_ok=True)
            case "USER":
                image.user = rest
            case "RUN":
                image.finish(["sh", "-c", rest], **known)
            case "COPY":
                self._copy(image, rest.split())
            case "CMD":
                image.command = json.loads(rest)
            case "HEALTHCHECK":
                image.healthcheck = json.loads(rest.partition("CMD ")[2])
            case _:
                assert keyword == "EXPOSE", f"{keyword} is not known here"

    def _copy(self, image: Image, words: list[str]) -> None:
        origin = self._context
        if words[0].startswith("--from="):
            origin = self._build(words.pop(0).removeprefix("--from=")).root
        *patterns, target = words
        to = image.root / os.path.join(image.workdir, target).lstrip("/")
        for source in (path for pattern in patterns for path in origin.glob(pattern.lstrip("/"))):
            if source.is_dir():
                shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
            else:
                to.mkdir(exist_ok=True)
                shutil.copy(source, to)

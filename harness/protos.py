"""Generate impl/callboard/protos/generated from spec/protos, or check that what is committed is current.

python -m harness.protos            write the files
python -m harness.protos --check    exit 1 and name the files that differ
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = REPOSITORY / "spec" / "protos"
GENERATED = REPOSITORY / "impl" / "callboard" / "protos" / "generated"
PACKAGE = "callboard.protos.generated"


def generate(target: Path) -> None:
    """Run protoc with the Python, type stub and gRPC generators into `target` and make imports absolute."""
    from grpc_tools import protoc

    # protoc looks for the generator of type stubs in PATH; it is installed beside this Python.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    names = sorted(path.name for path in SOURCES.glob("*.proto"))
    well_known = str(files("grpc_tools") / "_proto")
    arguments = ["protoc", f"-I{SOURCES}", f"-I{well_known}", f"--python_out={target}", f"--mypy_out=quiet:{target}"]
    if protoc.main([*arguments, *names]) != 0:
        raise SystemExit("protoc failed; its messages are above")
    (target / "__init__.py").write_text('"""Generated from spec/protos by `make protos`; do not edit."""\n')
    for path in [*target.glob("*_pb2.py"), *target.glob("*_pb2.pyi")]:
        text = re.sub(r"^import (\w+_pb2)", rf"from {PACKAGE} import \1", path.read_text(), flags=re.MULTILINE)
        path.write_text(text)


def differences(fresh: Path, committed: Path) -> list[str]:
    """Names of files that are missing, left over, or not equal."""
    names = {path.name for folder in (fresh, committed) for path in folder.glob("*.py*") if path.is_file()}
    return sorted(
        name
        for name in names
        if not (fresh / name).exists()
        or not (committed / name).exists()
        or (fresh / name).read_bytes() != (committed / name).read_bytes()
    )


def main(arguments: list[str]) -> int:
    """Entry point; returns the exit code."""
    GENERATED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        stale = differences(fresh, GENERATED)
        if "--check" in arguments:
            for name in stale:
                print(f"{GENERATED.relative_to(REPOSITORY)}/{name} does not match spec/protos: run `make protos`")
            return 1 if stale else 0
        for name in stale:
            if (fresh / name).exists():
                (GENERATED / name).write_bytes((fresh / name).read_bytes())
            else:
                (GENERATED / name).unlink()
            print(f"wrote {name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

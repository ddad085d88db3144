"""A stand-in for adb: keeps the file systems of devices in folders, and runs commands.

    fake_adb.py STATE [-s SERIAL] devices | push LOCAL REMOTE | shell LINE

STATE is a JSON file: `{"devices": {serial: {...}}}`. A device has a `state` (`device`,
`unauthorized`, `offline`), an `abi`, a `root` (folder of its files), `props`, and
faults: `full` (bytes that still fit), `goes_offline_after` (shell commands until then),
`no_status` (the connection breaks in the next command). Lines are run by the real sh,
with the device's paths in place of those here, so that quoting is tried for real.

A program that is pushed is an ELF file with a JSON object behind its header, which says
how it behaves (see `fake_program`); it is run if it is one for the device's ABI.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

TMP = "/data/local/tmp"
MACHINES = {"arm64-v8a": 183, "armeabi-v7a": 40, "x86_64": 62}


def fake_program(path, machine=183, **behaviour):
    """Writes a program that behaves so.

    `version` (which output it prints: `"2.18"`, `"litert"`, `"nonsense"`), `gpu`
    (`"full"`, `"none"`), `crashes`, `hangs`, `old` (knows no signatures), `fails`
    (a line), all for signatures in `only` if that is given.
    """
    head = (
        b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00" + machine.to_bytes(2, "little")
    )
    path.write_bytes(head + json.dumps(behaviour).encode())
    return path


def main(argv):
    state_file, *argv = argv
    state = json.loads(Path(state_file).read_text())
    if argv == ["devices"]:
        sys.stdout.write("List of devices attached\n")
        for serial, device in state["devices"].items():
            sys.stdout.write(f"{serial}\t{device['state']}\n")
        return 0
    _, serial, verb, *rest = argv
    device = state["devices"].get(serial)
    if device is None:
        sys.stderr.write(f"error: device '{serial}' not found\n")
        return 1
    left = device.get("goes_offline_after")
    if left is not None:
        device["goes_offline_after"] = left - 1
        Path(state_file).write_text(json.dumps(state))
    if device["state"] != "device" or (left is not None and left <= 0):
        sys.stderr.write("error: device offline\n")
        return 1
    return {"push": push, "shell": shell}[verb](device, *rest)


def push(device, local, remote):
    content = Path(local).read_bytes()
    if len(content) > device.get("full", len(content)):
        sys.stderr.write(
            f"adb: error: failed to copy '{local}' to '{remote}': remote write failed: "
            "No space left on device\n"
        )
        return 1
    there = Path(device["root"] + remote)
    if not there.parent.is_dir():
        sys.stderr.write(f"adb: error: remote secure_mkdirs failed: {remote}\n")
        return 1
    there.write_bytes(content)
    if content.startswith(b"\x7fELF"):
        kind = int.from_bytes(content[18:20], "little")
        fits = kind == MACHINES[device["abi"]]
        run = (
            [sys.executable, "-I", "-S", __file__, "--program", f"{there}.json"]
            if fits
            else [
                "sh",
                "-c",
                f"echo '{remote}: not executable: 64-bit ELF file'; exit 1",
            ]
        )
        Path(str(there) + ".json").write_bytes(content[20:])
        there.write_text(f'#!/bin/sh\nexec {shlex.join(run)} "$@"\n')
    return 0


def shell(device, line):
    tools = Path(device["root"]) / "bin"
    line = line.replace(TMP, device["root"] + TMP)
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, env=env, check=False
    )
    out = done.stdout.replace(device["root"] + TMP, TMP)
    if device.get("no_status"):
        out = out[:10]
    sys.stdout.write(out)
    sys.stderr.write(done.stderr)
    return done.returncode


def say(line):
    sys.stdout.write(f"INFO: {line}\n")


def program(behaviour_file, argv):
    """What benchmark_model does, as real versions print it."""
    behaviour = json.loads(Path(behaviour_file).read_text())
    flags = dict(word[2:].split("=", 1) for word in argv)
    signature = flags.get("signature_to_run_for", "")
    if "only" in behaviour and signature not in behaviour["only"]:
        behaviour = {}
    say("STARTING!")
    if behaviour.get("old"):
        say(f"Unconsumed cmdline flags: --signature_to_run_for={signature}")
    said = behaviour.get("fails")
    if not Path(flags["graph"]).exists():
        said = f"Failed to load model {flags['graph']}"
    if said:
        sys.stderr.write(f"ERROR: {said}\nERROR: Benchmarking failed.\n")
        return 1
    say(f"Graph: [{flags['graph']}]")
    say(f"Signature to run: [{signature}]")
    sys.stdout.flush()
    if behaviour.get("crashes"):
        os.kill(os.getpid(), 11)
    if behaviour.get("hangs"):
        time.sleep(20)
    if behaviour.get("version") == "nonsense":
        say("A version that tells its timings in another way: 3 ms")
    else:
        tell_times(behaviour, flags, signature)
    return 0


def tell_times(behaviour, flags, signature):
    """Wide widths are slow, more threads and a GPU fast."""
    width = int((signature or "width_100").split("_")[1])
    on_gpu = flags["use_gpu"] == "true" and behaviour.get("gpu") != "none"
    us = 100 * width // (3 if on_gpu else 1) // min(int(flags["num_threads"]), 2)
    if on_gpu:
        say("GPU delegate created.")
        say(
            "Explicitly applied GPU delegate, and the model graph will be completely "
            "executed by the delegate."
        )
    elif flags["use_gpu"] == "true":
        say("GPU acceleration is unsupported on this platform.")
    else:
        for k in range(3):  # a line for each part of the file, whatever is run
            sys.stderr.write(
                f"VERBOSE: Replacing {7 + k} out of 12 node(s) with delegate "
                "(TfLiteXNNPackDelegate) node, yielding 2 partitions for subgraph "
                f"{k}.\n"
            )
    say("Initialized session in 4.5ms.")
    version = behaviour.get("version")
    more = "" if version == "2.18" else f" p5={us} median={us} p95={us + 9}"
    say(f"count={flags['warmup_runs']} curr={us + 50}")
    numbers = f"first={us} curr={us} min={us - 5} max={us + 90} avg={us + 2}.5 std=4"
    say(f"count={flags['num_runs']} {numbers}{more}")
    if version == "litert":
        tag = "[./litert/tools/benchmark_litert_model.h:72] "
        say(tag + "\n========== BENCHMARK RESULTS ==========")
        say(f"{tag}Model initialization: 4.50 ms")
        say(f"{tag}Inference (avg):      {us / 1e3:.2f} ms ({flags['num_runs']} runs)")
        say(f"{tag}Overall footprint:    7.07 MB")
        return
    say(
        f"Inference timings in us: Init: 4500, First inference: {us + 50}, Warmup "
        f"(avg): {us + 50}, Inference (avg): {us + 2}.5"
    )
    say("Memory footprint delta from the start of the tool (MB): init=1 overall=2.5")


def pkill(*options):
    """What Android's pkill does with `-9 -f PATTERN`; not every machine has one."""
    pattern = options[-1].encode()
    status = 1
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        pid = int(path.parent.name)
        try:
            words = path.read_bytes().replace(b"\0", b" ")
            if pid != os.getpid() and re.search(pattern, words):
                os.kill(pid, 9)
                status = 0
        except OSError:  # ended meanwhile, or another user's
            continue
    return status


if __name__ == "__main__":
    if sys.argv[1] == "--pkill":
        sys.exit(pkill(*sys.argv[2:]))
    if sys.argv[1] == "--program":
        sys.exit(program(sys.argv[2], sys.argv[3:]))
    sys.exit(main(sys.argv[1:]))

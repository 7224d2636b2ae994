"""``girsanov doctor``: versions and machine, and whether all is well on it."""

__all__ = ["doctor"]

from pathlib import Path

from girsanov.cli.options import DeviceOption, Devices, JsonOption, ThreadsOption, device_of, prepare_threads
from girsanov.cli.output import as_json, emit

LINE = "{:14} {}"


def doctor(threads: ThreadsOption = None, device: DeviceOption = Devices.auto, json: JsonOption = False) -> int:
    """Versions and machine, for reports of faults, and a self-test of a few seconds: exit code 1 if it fails.

    The bound, the density formula and the ODE are compared with a closed form, threads are counted, and a checkpoint is
    written and read again in this folder and in that of temporary files.
    """
    from girsanov.environment import versions

    found = versions()
    prepare_threads(threads)
    place = device_of(device)
    from girsanov.self_test import self_test

    found["device"] = str(place)
    if not json:
        for name, version in found.items():
            emit(LINE.format(name, version))
        emit("")
    checks = []
    for check in self_test(Path(), device=place):
        checks.append(check)
        if not json:
            emit(f"{check.name}: {check.status}, {check.sentence}")
    failed = any(check.status == "failed" for check in checks)
    if json:
        emit(as_json({"versions": found, "checks": [vars(check) for check in checks], "ok": not failed}))
    return int(failed)

"""Starts the programs that scripts run as forks of a process that has imported PyTorch once.

A program spends seconds of CPU time on that. The scripts are given an executable in the place of
Python that asks the server; it is Python itself for all but our programs. One whose signals matter
needs Python itself as well, as they do not reach a fork.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from children import end_like_python, run_program  # noqa: E402

PRELOADED = (
    "SKT_distill calibrate test train_teacher report.accuracy torch._dynamo torch.utils.tensorboard"
)
CLIENT = """#!{python} -IS
import array, json, os, socket, sys
if not sys.argv[1].endswith(".py"):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
outputs = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
server.sendmsg([b"!"], outputs)
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
server.sendall(request)
server.shutdown(socket.SHUT_WR)
sys.exit(int(server.recv(3) or 1))
"""


@contextmanager
def forking_python(folder: Path) -> Iterator[Path]:
    """Runs a server in `folder`, and yields the executable that asks it."""
    address, client = folder / "server", folder / "python"
    client.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    client.chmod(0o755)
    command = [sys.executable, __file__, address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as server:
        server.stdout.readline()  # it listens
        yield client
        server.terminate()


def serve(address: str) -> list[str]:
    """Forks for every request; returns the command line in the fork, set up like its client."""
    for name in PRELOADED.split():
        importlib.import_module(name)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    print("listening", flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the processes that wait are not waited for
    while True:
        client, _ = listening.accept()
        if not os.fork():
            break
        client.close()
    listening.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if program := os.fork():
        _, status = os.waitpid(program, 0)
        client.sendall(b"%d" % (os.waitstatus_to_exitcode(status) % 256))
        os._exit(0)
    _, outputs, _, _ = socket.recv_fds(client, 1, 3)
    with client, client.makefile() as request:
        arguments, folder, environment = json.load(request)
    for number, output in enumerate(outputs):
        os.dup2(output, number)
        os.close(output)
    sys.stdin = open(0, closefd=False)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    return arguments


if __name__ == "__main__":
    program, *arguments = serve(sys.argv[1])
    end_like_python(partial(run_program, Path(program), arguments))

"""Processes that work together, told of each other as torchrun tells them, without a new interpreter for each."""

import socket


def environments(count: int) -> list[dict[str, str]]:
    """What torchrun puts into the environment of each of `count` processes on this machine."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    return [shared | {"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(count)]

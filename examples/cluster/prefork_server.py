"""A pre-fork server, as gunicorn is one: workers are forked with the model mapped, and replaced when they die.

python examples/cluster/prefork_server.py [--small] [--kill]
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
from tqdm import tqdm
from work import Job, Tokens, arguments, check, embed, job, model


class Server(HTTPServer):
    request_queue_size = 64
    path = ""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        task = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = embed(self.server.path, task).tobytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def fork(server: Server) -> int:
    child = os.fork()
    if child == 0:
        try:
            server.serve_forever()
        finally:
            os._exit(0)
    return child


def supervise(server: Server, children: list[int], stop: threading.Event) -> None:
    """Puts a new worker in the place of one that has died."""
    while not stop.is_set():
        for i, child in enumerate(children):
            if os.waitpid(child, os.WNOHANG)[0] and not stop.is_set():
                print("a worker has died, and is replaced")
                children[i] = fork(server)
        time.sleep(0.02)


def ask(url: str, task: Tokens) -> np.ndarray:
    for attempt in range(20):
        try:
            with urllib.request.urlopen(url, json.dumps(task).encode(), timeout=60) as answer:
                return np.frombuffer(answer.read(), np.float32).reshape(len(task), -1)
        except (urllib.error.URLError, ConnectionError):  # the worker was killed: ask again
            time.sleep(0.05 * attempt)
    raise ConnectionError(f"{url} does not answer")


def run(work: Job) -> list:
    server = Server(("127.0.0.1", 0), Handler)
    server.path = work.path
    model(work.path)  # before the fork: each worker inherits the mapping
    children = [fork(server) for _ in range(work.workers)]
    stop = threading.Event()
    watcher = threading.Thread(target=supervise, args=(server, children, stop))
    watcher.start()
    url = f"http://127.0.0.1:{server.server_port}"
    found = []
    try:
        with ThreadPoolExecutor(work.workers) as clients:
            answers = clients.map(lambda task: ask(url, task), work.tasks)
            for y in tqdm(answers, total=len(work.tasks), desc="pre-fork"):
                found.append(y)
                if work.kill and len(found) == 1:
                    os.kill(children[0], signal.SIGKILL)
    finally:
        stop.set()
        watcher.join()
        for child in children:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
        server.server_close()
    return found


if __name__ == "__main__":
    with job(arguments(__doc__)) as work:
        check(work, run(work), "pre-fork")

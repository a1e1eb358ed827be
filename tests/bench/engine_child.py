"""A simulated engine as a process of its own: shared memory as the plugin writes it, and a page of metrics beside it.

The page is what an engine can say from after its steps, as vLLM's is: four lines only, so that scraping costs least.
Ends when its standard input does, and prints what really happened.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec

from eagle_eye.probes.engine.simulator import Fleet, Scenario, SimulatedEngine

SLICE_NS = 1_000_000
LONG_STEP_NS = 1_000_000_000


class Page:
    """Set after every step."""

    text = b""

    def renew(self, engine: SimulatedEngine, end_ns: int) -> None:
        lines = {"num_requests_running": len(engine._running), "num_requests_waiting": len(engine._waiting)}
        lines |= {"steps_total": engine.steps, "step_end_ns": end_ns}
        self.text = "".join(f"vllm:{name} {value}\n" for name, value in lines.items()).encode()


def serve(page: Page) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(page.text)))
            self.end_headers()
            self.wfile.write(page.text)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main() -> None:
    scenario = msgspec.json.decode(sys.argv[1], type=Scenario)
    engine = SimulatedEngine(scenario, seed=1)
    finish = engine._finish_step
    # A step has ended when it is told: that this process was woken late is no delay of the feed.
    engine._finish_step = lambda now_ns: finish(time.monotonic_ns())  # type: ignore[method-assign]
    fleet, page = Fleet([engine]), Page()
    server = serve(page)
    print(json.dumps({"port": server.server_address[1], "instance": engine.instance}), flush=True)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    steps = 0
    stalls: dict[int, dict[str, int]] = {}
    while not ended.is_set():
        fleet.run_until(time.monotonic_ns() + SLICE_NS)
        if engine.steps != steps:
            steps = engine.steps
            page.renew(engine, time.monotonic_ns())
        if engine._flight_ns and engine._end_ns - engine._flight_ns > LONG_STEP_NS:
            stall = stalls.setdefault(engine._flight_ns, {"start_ns": engine._flight_ns, "end_ns": engine._end_ns})
            stall["queue"] = len(engine._unseen) + len(engine._waiting)
    fleet.close()
    print(json.dumps({"steps": engine.steps, "stalls": list(stalls.values())}), flush=True)


if __name__ == "__main__":
    main()

"""Small servers on 127.0.0.1 that send what a network camera would."""

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import StreamRequestHandler, ThreadingTCPServer

import cv2

BOUNDARY = "frame"
SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:t\r\n"
TS_PACKETS = 7 * 188  # bytes in a packet of RTP


@contextmanager
def serve(kind, handler):
    """Yields the port of a server whose threads end with the test."""
    server = kind(("127.0.0.1", 0), handler)
    server.daemon_threads, server.block_on_close = True, False
    server.handle_error = lambda *_: None  # a client may hang up
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def http_camera(visits, gap_s=0.02):
    """Yields the port of a camera that sends `visits[i]` to the i-th visitor, and hangs up.

    Those are lists of (H, W, 3) BGR pictures, sent as MJPEG with `gap_s` between them, or functions
    that are called. Later visitors are refused.
    """
    visits = iter(visits)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            visit = next(visits, None)
            if visit is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
            self.end_headers()
            for picture in visit:
                jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}"
                self.wfile.write(f"{head}\r\n\r\n".encode() + jpeg + b"\r\n")
                time.sleep(gap_s)

        def log_message(self, *_):
            pass

    with serve(ThreadingHTTPServer, Handler) as port:
        yield port


@contextmanager
def http_file(content):
    """Yields the port of a server that answers every request with this file."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with serve(ThreadingHTTPServer, Handler) as port:
        yield port


@contextmanager
def rtsp_camera(transport_stream, gap_s=0.005):
    """Yields the port of a camera that plays an MPEG transport stream by RTSP over TCP."""

    class Handler(StreamRequestHandler):
        def handle(self):
            while request := self.rfile.readline().decode().split():
                head = iter(lambda: self.rfile.readline().decode().strip(), "")
                fields = dict(line.split(": ", 1) for line in head)
                answer = [f"RTSP/1.0 200 OK\r\nCSeq: {fields['CSeq']}", "Session: 1"]
                body = SDP if request[0] == "DESCRIBE" else ""
                if request[0] == "SETUP":
                    answer.append("Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
                if body:
                    answer += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
                self.wfile.write(("\r\n".join(answer) + "\r\n\r\n" + body).encode())
                if request[0] == "PLAY":
                    self.play()
                    return

        def play(self):
            for number, start in enumerate(range(0, len(transport_stream), TS_PACKETS)):
                part = transport_stream[start : start + TS_PACKETS]
                stamp = number.to_bytes(2, "big") + (3000 * number).to_bytes(4, "big")
                packet = b"\x80\x21" + stamp + b"SKT " + part
                self.wfile.write(b"$\0" + len(packet).to_bytes(2, "big") + packet)
                time.sleep(gap_s)

    with serve(ThreadingTCPServer, Handler) as port:
        yield port

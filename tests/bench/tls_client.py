#!/usr/bin/python3
"""A client with TLS 1.2 (what mbedTLS 2.28 has), for tls.py.

    tls_client.py new|resumed PORT SECONDS    handshakes, one after the other
    tls_client.py bulk PORT BYTES             one download
"""
import socket
import ssl
import sys
import time

mode, port, amount = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.maximum_version = ssl.TLSVersion.TLSv1_2


def connect(session=None):
    peer = socket.create_connection(("127.0.0.1", port), timeout=20)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(peer, session=session)


if mode == "bulk":
    with connect() as stream:
        stream.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Bench: bytes {amount:.0f}\r\n"
                       "Content-Type: application/json\r\nContent-Length: 23\r\n\r\n{\"model\":\"bench-model\"}".encode())
        begun = time.monotonic()
        room = bytearray(65536)
        size = 0
        while size < amount:
            got = stream.recv_into(room)
            if got == 0:
                sys.exit("the download ended early")
            size += got
        print(f"figures bytes={size} seconds={time.monotonic() - begun:.6f}")
else:
    with connect() as stream:
        known = stream.session
    count = reused = 0
    begun = time.monotonic()
    while time.monotonic() - begun < amount:
        with connect(known if mode == "resumed" else None) as stream:
            reused += stream.session_reused
        count += 1
    print(f"figures handshakes={count} reused={reused} seconds={time.monotonic() - begun:.6f}")

#!/usr/bin/env python3
"""Opens what the broker sealed: a second implementation of proto/docs/sealing.md, which shares no code with the first.

    open_sealed.py FILE        reads cases from FILE, or from standard input where FILE is `-`

The file is like proto/docs/sealing-vectors.json: `{"vectors": [{"name", "scope_key", "context": {...}, "sealed"}, ...]}`, bytes
in hexadecimal. Each case is answered by one line of JSON: its name, and either the plaintext or null where it does not open. Where
a case says `plaintext`, `derived_key`, `commitment` or `encoded_context` too, they are compared, and the first difference ends it.

Needs `cryptography` from PyPI.
"""

import hashlib
import hmac
import json
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

VERSION, SUITE = 1, 1
HEADER_BYTES, TAG_BYTES = 2 + 32 + 32, 16


def encode_context(context):
    """Each part behind its length; numbers as eight bytes."""
    number = lambda value: value.to_bytes(8, "big")
    parts = [
        number(VERSION),
        number(SUITE),
        context["scope"].encode(),
        number(context["epoch"]),
        context["resource"].encode(),
        number(context["previous_revision"]),
        context["issuer"].encode(),
        context["subject"].encode(),
        context["token_id"].encode(),
        context["confirmation"].encode(),
        bytes.fromhex(context["token_sha256"]),
    ]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def derive(scope_key, message_id, encoded_context):
    """The key and the commitment."""
    prk = hmac.new(message_id, scope_key, hashlib.sha256).digest()
    digest = hashlib.sha256(encoded_context).digest()
    expand = lambda label: HKDFExpand(algorithm=SHA256(), length=32, info=label + digest).derive(prk)
    return expand(b"veribus/1/key"), expand(b"veribus/1/commit")


def open_sealed(scope_key, context, sealed):
    """The plaintext, or None."""
    if len(sealed) < HEADER_BYTES + TAG_BYTES or sealed[:2] != bytes([VERSION, SUITE]):
        return None
    message_id, commitment, body = sealed[2:34], sealed[34:66], sealed[66:]
    encoded = encode_context(context)
    key, expected = derive(scope_key, message_id, encoded)
    if not hmac.compare_digest(commitment, expected):
        return None
    try:
        return AESGCM(key).decrypt(bytes(12), body, bytes([VERSION]) + message_id + encoded + commitment)
    except InvalidTag:
        return None


def check(case, sealed, plaintext):
    """Compares everything that the case says."""
    encoded = encode_context(case["context"])
    key, commitment = derive(bytes.fromhex(case["scope_key"]), sealed[2:34], encoded)
    found = {"plaintext": plaintext, "encoded_context": encoded, "derived_key": key, "commitment": commitment}
    for name, value in found.items():
        if name in case and (value is None or value.hex() != case[name]):
            sys.exit(f"{case['name']}: another {name}: {value and value.hex()}")


def main():
    source = sys.stdin if sys.argv[1] == "-" else open(sys.argv[1], encoding="utf-8")
    for case in json.load(source)["vectors"]:
        sealed = bytes.fromhex(case["sealed"])
        plaintext = open_sealed(bytes.fromhex(case["scope_key"]), case["context"], sealed)
        check(case, sealed, plaintext)
        print(json.dumps({"name": case["name"], "plaintext": None if plaintext is None else plaintext.hex()}))


if __name__ == "__main__":
    main()

"""Creates a container in Azure's storage emulator: azure_container.py HOST:PORT NAME"""

import base64
import hashlib
import hmac
import http.client
import sys
from email.utils import formatdate

# The emulator's own account, which everybody knows.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
VERSION = "2021-08-06"


def create(address, name):
    date = formatdate(usegmt=True)
    path = f"/{ACCOUNT}/{name}"
    # "Authorize with Shared Key" of Azure's REST API: the verb, 11 headers that are not sent, Azure's own headers, the resource.
    lines = ["PUT", *[""] * 11, f"x-ms-date:{date}", f"x-ms-version:{VERSION}", f"/{ACCOUNT}{path}", "restype:container"]
    signed = hmac.new(base64.b64decode(KEY), "\n".join(lines).encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": date,
        "x-ms-version": VERSION,
        "Content-Length": "0",
        "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(signed).decode()}",
    }
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("PUT", f"{path}?restype=container", headers=headers)
    response = connection.getresponse()
    if response.status != 201:
        raise SystemExit(f"{response.status}: {response.read().decode(errors='replace')}")


create(sys.argv[1], sys.argv[2])

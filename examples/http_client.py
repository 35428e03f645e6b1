"""A picture over HTTP with Python's standard library alone: begin a job, watch it, fetch its file.

python examples/http_client.py "red apple" apple.png [http://127.0.0.1:7860]
"""

import json
import sys
import urllib.request
from pathlib import Path


def main(prompt: str, target: str, base: str = "http://127.0.0.1:7860") -> None:
    body = json.dumps({"prompt": prompt, "requirements": {"quality": "high"}}).encode()
    with urllib.request.urlopen(f"{base}/difs/v1/generate", body) as answer:
        job = json.load(answer)
    print(f"{job['id']}: {job['plan']['variant']} with {job['plan']['steps']} steps")

    with urllib.request.urlopen(f"{base}/difs/v1/requests/{job['id']}/events") as events:
        for line in events:
            if line.startswith(b"data: "):
                job = json.loads(line.removeprefix(b"data: "))
                print(f"{job['state']}: step {job['step']} of {job['steps']}")
    if "error" in job:
        sys.exit(job["error"]["message"])

    with urllib.request.urlopen(base + job["result"]["images"][0]["url"]) as answer:
        Path(target).write_bytes(answer.read())


if __name__ == "__main__":
    main(*sys.argv[1:])

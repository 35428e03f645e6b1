"""Pictures from DIFS with the unmodified `openai` client (`pip install openai`).

difs serve --http &
python examples/openai_client.py "red apple" apple.png
"""

import base64
import sys
from pathlib import Path

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:7860/v1", api_key="none")


def main(prompt: str, target: str) -> None:
    stream = client.images.generate(
        prompt=prompt,
        model="auto",  # or draft, fast, balanced, best, or the name of a variant
        size="auto",
        stream=True,
        partial_images=2,
        extra_body={"latency_s": 5.0},  # what OpenAI has no word for
    )
    for event in stream:
        if event.type == "image_generation.partial_image":
            print(f"preview {event.partial_image_index}: {event.size}")
        else:
            Path(target).write_bytes(base64.b64decode(event.b64_json))
            plan = event.difs["plan"]
            print(f"{target}: {plan['variant']}, {plan['steps']} steps, {plan['reason']}")


if __name__ == "__main__":
    main(*sys.argv[1:])

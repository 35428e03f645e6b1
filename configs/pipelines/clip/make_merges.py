"""Makes merges.txt from the vocabulary that CLIP was published with.

    pip download --no-deps open_clip_torch && unzip open_clip_torch-*.whl
    python configs/pipelines/clip/make_merges.py open_clip/bpe_simple_vocab_16e6.txt.gz

CLIP uses the first 48894 of the file's merges; with 2 x 256 bytes and two marks they are its 49408
tokens, in that order, so that no vocab.json is needed.
"""

import gzip
import sys
from pathlib import Path

MERGES = 49152 - 256 - 2

if __name__ == "__main__":
    lines = gzip.decompress(Path(sys.argv[1]).read_bytes()).decode("utf-8").split("\n")
    merges = lines[1 : 1 + MERGES]
    Path(__file__).with_name("merges.txt").write_text("\n".join(merges) + "\n", "utf-8")

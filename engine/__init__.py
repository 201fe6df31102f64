"""Runs a GGUF: continuous batching over llama-cpp-python's low-level API."""

import os

# libgomp reads this when the first llama.cpp library loads it, so it is set before any module here does.
# Its threads spin 300,000 rounds by default at each of a graph's hundreds of barriers. When another process
# or the web page needs the cores too, spinning takes time from the thread that they wait for; with too little
# spinning, every barrier goes through the kernel. Measured on 2 cores, 135 M model, one answer:
#     rounds               300   1000   3000   300,000
#     quiet, tokens/s       57     95     96        97
#     shared, ms a token    23     35     50       280
SPIN_BEFORE = os.environ.get("GOMP_SPINCOUNT")  # as set by the caller
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

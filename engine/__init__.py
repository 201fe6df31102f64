"""Runs a GGUF: continuous batching over llama-cpp-python's low-level API."""

import os

# libgomp reads this when the first llama.cpp library pulls it in, so it is set before any module here can.
# Its threads spin some 300,000 rounds at each of a graph's hundreds of barriers; where another process or the
# web page wants the cores too, they spin away the very time that the thread they wait for needs. Too short
# a spin costs as much on a quiet machine: there each barrier becomes a sleep and a wake-up. One user's
# tokens a second, 2 cores, 135 M model, quiet | beside another busy process (a single run each):
# 300: 43 | 38, 500: 63 | 31, 1000: 75 | 25, 2000: 74 | 20, libgomp's own: 73 | 21 (llama-server: 73).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

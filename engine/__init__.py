"""Runs a GGUF: continuous batching over llama-cpp-python's low-level API."""

import os

# libgomp reads this when the first llama.cpp library pulls it in, so it is set before any module here can.
# Its threads spin some 300,000 rounds at each of a graph's hundreds of barriers; where another process or the
# web page wants the cores too, they spin away the very time that the thread they wait for needs. Measured
# with load 6 on 2 cores, 135 M model: a token took 320 ms by default, 140 ms at 3000 rounds, 55 ms at 300.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "300")

"""Runs a GGUF: continuous batching over llama-cpp-python's low-level API."""

import os

# libgomp reads this when the first llama.cpp library pulls it in, so it is set before any module here can.
# Its threads spin 300,000 rounds by default at each of a graph's hundreds of barriers. Where another process
# or the web page wants the cores too, they spin away the very time that the thread they wait for needs; spin
# too little, and every barrier goes through the kernel. Measured on 2 cores, 135 M model, one answer:
#     rounds               300   1000   3000   300,000
#     quiet, tokens/s       57     95     96        97
#     shared, ms a token    23     35     50       280
SPIN_BEFORE = os.environ.get("GOMP_SPINCOUNT")  # what whoever runs us has set
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

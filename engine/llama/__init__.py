"""llama.cpp through ctypes: library, model, tokenizer, grammar, sampler, and the batch runner."""

"""llama.cpp through ctypes: library, model, tokenizer, grammar, sampler, and the runner that decodes batches."""

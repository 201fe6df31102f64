"""What the options that app.py and scripts/chat.py share are for, in one line each."""

MODEL = (
    "A .gguf file, its folder, or owner/name/file.gguf on the Hub, and ::ADAPTER.gguf after it for a LoRA "
    "adapter. Default: the embedded model."
)
CONTEXT = "Tokens that one conversation may hold."
THREADS = "CPU threads. Default: the cores that are really yours."
KV_TYPE = "How a conversation is kept in memory: q8_0 takes half, q4_0 a quarter and loses precision."
SPECULATION = "Guess what repeats the conversation, and check it in one go, where measured to be faster."

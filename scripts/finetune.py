"""Fine-tune a LoRA adapter, or all weights of a small model, on chats or texts."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from any folder

from pipeline.cli.finetune import app

if __name__ == "__main__":
    app()

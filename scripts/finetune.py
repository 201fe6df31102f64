"""Fine-tune a LoRA adapter on a JSONL file of chats."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from any folder

from pipeline.cli.finetune import app

if __name__ == "__main__":
    app()

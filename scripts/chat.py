"""Chat with a GGUF in the terminal: python scripts/chat.py MODEL.gguf; one answer with --prompt TEXT."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from any folder

from ui.terminal.cli import main_chat

if __name__ == "__main__":
    main_chat()

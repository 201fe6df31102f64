"""The entry of a Space, and of `python app.py MODEL`: serves the chat in the browser."""

from ui.server.launch import main

if __name__ == "__main__":
    main()

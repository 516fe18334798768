"""The chat page: static files, and Markdown rendered for it by the server."""

"""Our HTML pages: how they are rendered, what they look like, and the one script that they run."""

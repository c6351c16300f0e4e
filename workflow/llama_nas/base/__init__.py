"""Where a base model comes from: the Hub, a local folder, or the embedded world."""

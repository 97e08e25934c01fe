"""Every kind of pooling: `basic` is where to begin."""

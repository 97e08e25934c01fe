"""Every kind of pooling; start with the table in `basic`."""

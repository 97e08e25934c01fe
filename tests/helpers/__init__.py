"""What several test files share: oracles, the guarded backend, tables, planted mistakes."""

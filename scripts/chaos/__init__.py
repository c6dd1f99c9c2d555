"""What can happen to a run, made to happen: each module has `rows`, which yields (name, happened, passed, detail)."""

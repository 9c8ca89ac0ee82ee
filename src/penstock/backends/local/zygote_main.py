"""Starts a zygote: `python -m penstock.backends.local.zygote_main FRAMEWORK --fd N --parent PID`."""

if __name__ == "__main__":
    import penstock.backends.local.written_names  # noqa: F401 - before all that has names
    from penstock.backends.local.fork_hooks import defer

    defer()  # before what follows imports the standard library's threads and logs

    from penstock.backends.local.zygote import main

    raise SystemExit(main())

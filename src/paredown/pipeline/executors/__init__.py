"""Where jobs run: one file per way, all behind the protocol in `base`."""

"""Processes that train one run together: how they agree, how they are started, what each but the first does."""

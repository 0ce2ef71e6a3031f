"""Numbers of stored runs: frames, intervals, agreement. Nothing is drawn or formatted here."""

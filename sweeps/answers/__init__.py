"""What came out: rows beside their baseline, verdicts, and what is said of a study or a run."""
